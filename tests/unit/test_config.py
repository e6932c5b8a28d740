"""The settings: layers, every problem at once, the nearest name, and a round trip."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import config, yaml12
from core.algorithms import REGISTRY
from core.config import Config, EvaluationConfig, NetworkConfig, read
from core.errors import ConfigError
from core.fields import build
from core.presets import PRESETS, find
from tests.unit.configuring import NO_PRESETS, from_yaml, load, problems_of, written


def test_defaults_are_a_usable_run() -> None:
    assert load(presets=NO_PRESETS) == Config()
    assert Config().network.listen == "127.0.0.1:0"


def test_each_layer_covers_the_one_before(tmp_path: Path) -> None:
    presets = {("ppo", "CartPole-v1"): {"actors": 2, "seed": 2, "env_steps": 2, "envs_per_actor": 2}}
    file = written(tmp_path, "seed: 3\nenv_steps: 3\nenvs_per_actor: 3\n")
    loaded = load(file, {"env_steps": 4, "envs_per_actor": 4}, ["envs_per_actor=5"], presets=presets)
    assert (loaded.actors, loaded.seed, loaded.env_steps, loaded.envs_per_actor) == (2, 3, 4, 5)
    assert loaded.learner_threads == Config().learner_threads


def test_sections_are_merged_name_by_name(tmp_path: Path) -> None:
    presets = {("ppo", "CartPole-v1"): {"ppo": {"gamma": 0.98, "epochs": 20}, "network": {"window_chunks": 2}}}
    file = written(tmp_path, "ppo:\n  epochs: 10\nnetwork:\n  keepalive_s: 5\n")
    loaded = load(file, {"network.metrics_port": 9100}, ["ppo.clip=0.1"], presets=presets)
    assert loaded.settings == {"gamma": 0.98, "epochs": 10, "clip": 0.1}
    assert loaded.network == NetworkConfig(window_chunks=2, keepalive_s=5.0, metrics_port=9100)


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    presets = {("ppo", "CartPole-v1"): {"ppo": {"gamma": 0.98}}}
    loaded = load(written(tmp_path, "ppo:\nnetwork:\nenv_kwargs:\n"), presets=presets)
    assert loaded == Config(settings={"gamma": 0.98})


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n"), presets=NO_PRESETS) == Config()


@pytest.mark.parametrize("where", ["file", "flag", "set"])
def test_the_preset_is_that_of_the_chosen_algorithm_and_environment(tmp_path: Path, where: str) -> None:
    presets = {("dqn", "Acrobot-v1"): {"actors": 7}, ("ppo", "CartPole-v1"): {"actors": 9}}
    file = written(tmp_path, "algorithm: dqn\nenv: Acrobot-v1\n") if where == "file" else None
    flags = {"algorithm": "dqn", "env": "Acrobot-v1"} if where == "flag" else {}
    sets = ["algorithm=dqn", "env=Acrobot-v1"] if where == "set" else []
    assert load(file, flags, sets, presets=presets).actors == 7
    assert load(presets=presets).actors == 9
    assert load(None, {"algorithm": "dqn"}, presets=presets).actors == 1


@pytest.mark.parametrize(("algorithm", "env"), PRESETS)
def test_presets_hold_known_names_and_allowed_values(algorithm: str, env: str) -> None:
    loaded = load(None, {"algorithm": algorithm, "env": env})
    assert loaded.settings == PRESETS[algorithm, env].get(algorithm, {})
    assert build(REGISTRY[algorithm].Config, loaded.settings, algorithm)[1] == []


# problems


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "actrs: 2\nactors: 0\nnetwork:\n  window: 3\n  listen: nowhere\ndqn:\n  gamma: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {"seed": -1, "device": "tpu"}, ["policy_lag=2", "nonsense", "x=[", "faults.restarts=lots"])
    text = str(caught.value)
    assert len(caught.value.problems) == 11, text
    assert "actrs: no such setting; did you mean 'actors'?" in text
    assert "actors: must be at least 1, not 0" in text
    assert "network.window: no such setting; did you mean 'network.window_chunks'?" in text
    assert "network.listen: must be HOST:PORT with a port from 0 to 65535, not 'nowhere'" in text
    assert "dqn: this section is for another algorithm, and the run trains ppo" in text
    assert "seed: must be at least 0, not -1" in text
    assert "device: must be one of auto, cpu, cuda, not 'tpu'" in text
    assert "policy_lag: must be one of auto, async, 0, 1, not 2" in text
    assert "--set nonsense: must be NAME=VALUE" in text
    assert "--set x=[: the value is not YAML" in text
    assert "faults.restarts: must be a whole number, not 'lots'" in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("env_step", "env_steps"),
        ("window_chunks", "network.window_chunks"),
        ("network.actors", "actors"),
        ("networks.listen", "network.listen"),
        ("checkpoint.keeps", "checkpoint.keep"),
        ("polcy_lag", "policy_lag"),
    ],
)
def test_the_nearest_name_is_offered(name: str, meant: str) -> None:
    (problem,) = problems_of(f"{name}=1")
    assert problem.startswith(name.partition(".")[0])
    if "." in name and name.partition(".")[0] == "networks":
        assert "did you mean 'network'?" in problem
    else:
        assert problem == f"{name}: no such setting; did you mean '{meant}'?"


def test_a_name_like_no_other_is_only_refused() -> None:
    assert problems_of("zzz=1") == ["zzz: no such setting"]


def test_settings_are_written_under_the_algorithms_name() -> None:
    (problem,) = problems_of("settings.gamma=1")
    assert problem == "settings: no such setting; those of ppo are written ppo.NAME"


def test_an_algorithm_that_is_not_there_names_those_that_are() -> None:
    (problem,) = problems_of("algorithm=pppo", algorithms=["ppo", "dqn"], presets=NO_PRESETS)
    assert problem == "algorithm: there is no 'pppo'; did you mean 'ppo'? There are dqn, ppo."
    assert problems_of("algorithm=mine", "mine.x=1", presets=NO_PRESETS) == []


@pytest.mark.parametrize("name", ["network", "env", "two words", ""])
def test_an_algorithms_name_must_be_able_to_head_a_section(name: str) -> None:
    with pytest.raises(ConfigError, match="algorithm: must be a name that is no other setting's"):
        Config(algorithm=name)


def test_a_section_that_is_a_number_and_a_name_inside_a_number() -> None:
    assert problems_of("network=5") == ["network: must be a section of names and values, not 5"]
    (problem,) = problems_of("actors.few=1")
    assert problem == "actors: must be a whole number, not {'few': 1}"
    (problem,) = problems_of("ppo=5")
    assert problem.startswith("ppo: must be names and values")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1\n- 2\n", "must be names and values"),
        ("just text", "must be names and values"),
        ("actors: 1\nactors: 2\n", "'actors' is given twice"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("1: 2\n", "no such setting"),
        ("? a: 1\n", "a name must be plain text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    (problem,) = problems_of(file=written(tmp_path, text))
    assert message in problem
    assert "run.yaml" in problem or problem.startswith("1:")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (problem,) = problems_of(file=tmp_path / "missing.yaml")
    assert "missing.yaml: cannot be read" in problem
    (problem,) = problems_of(file=tmp_path)
    assert "cannot be read" in problem


def test_contradictions_are_found_after_all_fields() -> None:
    (problem,) = problems_of("network.max_chunk_bytes=1_000_000", "network.max_message_bytes=1_000_001")
    assert problem.startswith("network.max_chunk_bytes: 1000000 is more than half of max_message_bytes (1000001)")
    assert problems_of("network.max_chunk_bytes=500_000", "network.max_message_bytes=1_000_000") == []


@pytest.mark.parametrize("listen", ["localhost:0", "0.0.0.0:65535", "[::1]:80"])
def test_addresses_that_can_be_used(listen: str) -> None:
    assert NetworkConfig(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["", ":1", "host", "host:", "host:65536", "host:-1", "host:٣"])
def test_addresses_that_cannot_be_used(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen: must be HOST:PORT"):
        NetworkConfig(listen=listen)


def test_a_config_made_in_python_is_checked_too() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(actors=0, target_return=float("nan"), run_dir=" ", evaluation="often")  # type: ignore[arg-type]
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["target_return", "actors", "evaluation"]
    with pytest.raises(ConfigError, match="run_dir: must name a directory"):
        Config(run_dir=" ")
    with pytest.raises(ConfigError, match="replay_data_dir: must name a folder"):
        Config(replay_data_dir="")
    with pytest.raises(ConfigError, match="an embedded table is in the learner's memory"):
        Config(replay_data_dir="/data", replay="embedded")
    with pytest.raises(ConfigError, match=r"^episodes: must be at least 1, not 0$"):
        EvaluationConfig(episodes=0)


# round trips

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.builds(
    Config,
    seed=st.integers(0, 2**63 - 1),
    target_return=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    policy_lag=st.sampled_from(["auto", "async", 0, 1]),
    run_dir=st.none() | st.text().filter(lambda text: bool(text.strip())),
    env=st.text(),
    env_kwargs=st.dictionaries(st.text(), plain_values, max_size=3),
    settings=st.dictionaries(st.text(), plain_values, max_size=3),
    evaluation=st.builds(EvaluationConfig, episodes=st.integers(1, 100)),
)


@given(configs)
def test_plain_and_json_round_trip(run: Config) -> None:
    assert config.from_plain(config.to_plain(run)) == run
    assert config.from_plain(json.loads(json.dumps(config.to_plain(run)))) == run


@given(configs)
@example(Config(env="\x85"))  # PyYAML writes this line break in a way that it cannot read, unless all is ASCII
def test_yaml_round_trip(run: Config) -> None:
    assert from_yaml(config.to_yaml(run)) == run


def test_a_runs_own_file_takes_no_preset(tmp_path: Path) -> None:
    run = Config(settings={"gamma": 0.5})
    assert from_yaml(config.to_yaml(run)) == run
    assert load(written(tmp_path, config.to_yaml(run)), presets=NO_PRESETS) == run


def test_the_written_file_has_every_name() -> None:
    tree = yaml12.load(config.to_yaml(Config()))
    expected = {field.name for field in dataclasses.fields(Config)} - {"settings"} | {"ppo"}
    assert set(tree) == expected
    assert set(tree["network"]) == {field.name for field in dataclasses.fields(NetworkConfig)}


def test_reading_a_bad_plain_tells_all() -> None:
    with pytest.raises(ConfigError, match="2 problems"):
        config.from_plain({"actors": 0, "sed": 1})


@given(st.lists(st.text(), max_size=4), st.dictionaries(st.text(), plain_values, max_size=4))
def test_no_input_raises_anything_but_problems(sets: list[str], flags: dict[str, Any]) -> None:
    instance, problems = read(None, flags, sets)
    assert problems or isinstance(instance, Config)


# fields, for algorithms' own settings


def test_a_preset_of_the_very_environment_goes_before_its_familys_and_a_longer_pattern_before_a_shorter() -> None:
    presets = {("ppo", "ALE/*"): {"seed": 1}, ("ppo", "ALE/Pong*"): {"seed": 2}, ("ppo", "ALE/Pong-v5"): {"seed": 3}}
    assert find(presets, "ppo", "ALE/Pong-v5") == ("ALE/Pong-v5", {"seed": 3})
    assert find(presets, "ppo", "ALE/Pong-v4") == ("ALE/Pong*", {"seed": 2})
    assert find(presets, "ppo", "ALE/Breakout-v5") == ("ALE/*", {"seed": 1})
    assert find(presets, "ppo", "Pong") == find(presets, "dqn", "ALE/Pong-v5") == ("", {})
