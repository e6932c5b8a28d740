"""core/envs.py: native and sync vector environments, their specs, seeds and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from core import envs as vector
from core.errors import ConfigError
from core.specs import ActionSpec, ArraySpec, EnvSpec


class Spaces(gym.Env[Any, Any]):
    """Has the spaces that it is given."""

    def __init__(self, observation: spaces.Space[Any] | None = None, action: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation or spaces.Box(-1, 1, (2,), np.float64)
        self.action_space = action or spaces.Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def same_step(num_envs: int, **_: Any) -> SyncVectorEnv:
    return SyncVectorEnv([Spaces] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    entry: Any = Spaces
    vector_entry: Any = same_step
    gym.register("Spaces-v0", entry)
    gym.register("SameStep-v0", entry, vector_entry_point=vector_entry)
    yield
    for name in ("Spaces-v0", "SameStep-v0"):
        gym.registry.pop(name, None)


def spec_of(**kwargs: Any) -> EnvSpec:
    envs = vector.make("Spaces-v0", 2, kwargs)
    try:
        return vector.spec_of("Spaces-v0", envs)
    finally:
        envs.close()


@pytest.mark.parametrize(("env_id", "native"), [("CartPole-v1", True), ("Acrobot-v1", False), ("Pendulum-v1", False)])
def test_native_where_there_is_one_and_always_next_step(env_id: str, native: bool) -> None:
    envs = vector.make(env_id, 3)
    assert envs.num_envs == 3
    assert isinstance(envs, SyncVectorEnv) is not native
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    envs.close()


def test_arguments_reach_the_environment() -> None:
    envs = vector.make("Pendulum-v1", 2, {"g": 1.5})
    assert isinstance(envs, SyncVectorEnv)
    assert [getattr(e.unwrapped, "g", None) for e in envs.envs] == [1.5, 1.5]
    envs.close()


def test_the_row_below_an_end_is_a_reset_row() -> None:
    envs = vector.make("CartPole-v1", 1)
    envs.reset(seed=1)
    ended = np.zeros(1, bool)
    while not ended[0]:
        _, _, terminated, truncated, _ = envs.step(np.zeros(1, np.int64))
        ended = terminated | truncated
    obs, reward, terminated, truncated, _ = envs.step(np.zeros(1, np.int64))
    envs.close()
    assert (reward[0], terminated[0], truncated[0]) == (0.0, False, False)
    assert np.abs(obs).max() <= 0.05  # CartPole begins near zero


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("CartPole-v9", "unknown environment 'CartPole-v9': did you mean"),
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("Nothing at all", "is its package installed and imported"),
        ("no_such_package:Thing-v0", "unknown environment or wrapper 'no_such_package:Thing-v0'.*no_such_package"),
    ],
)
def test_an_unknown_environment_is_refused_with_the_nearest_names(env_id: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        vector.make(env_id, 1)


def test_an_environment_of_a_users_module_is_found_by_module_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import gymnasium\nfrom tests.unit.test_envs import Spaces\ngymnasium.register('Own-v0', Spaces)\n"
    (tmp_path / "own_envs.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    envs = vector.make("own_envs:Own-v0", 2)
    assert envs.num_envs == 2
    envs.close()
    gym.registry.pop("Own-v0")
    sys.modules.pop("own_envs")


def test_bad_arguments_are_told_with_the_environments_own_words() -> None:
    with pytest.raises(ConfigError, match=r"'CartPole-v1' cannot be made with \{'gravitas': 1\}: TypeError"):
        vector.make("CartPole-v1", 1, {"gravitas": 1})


def test_same_step_autoreset_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"Shoal needs NEXT_STEP.*autoreset_mode=NEXT_STEP"):
        vector.make("SameStep-v0", 2)


def test_specs_of_discrete_and_box() -> None:
    assert spec_of() == EnvSpec(
        "Spaces-v0", ArraySpec((2,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=3, start=5)
    )
    image, push = (
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
        spaces.Box(np.array([-1, -2]), np.array([1, 3]), (2,), np.float64),
    )
    spec = spec_of(observation=image, action=push)
    assert spec.observation == ArraySpec((4, 4, 3), "uint8")
    assert spec.action == ActionSpec("box", ArraySpec((2,), "float32"), low=(-1.0, -2.0), high=(1.0, 3.0))
    assert EnvSpec.from_plain(spec.to_plain()) == spec


@pytest.mark.parametrize(("which", "space"), [("observes", spaces.Text(3)), ("acts", spaces.Text(3))])
def test_other_spaces_are_refused_by_name(which: str, space: spaces.Space[Any]) -> None:
    wanted = {"observation": space} if which == "observes" else {"action": space}
    with pytest.raises(ConfigError, match=f"environment 'Spaces-v0' {which}.*Shoal takes"):
        spec_of(**wanted)


def test_seeds_are_all_different_and_training_never_meets_evaluation() -> None:
    seeds = [
        vector.seed_of(run, slot, purpose)
        for run in range(20)
        for slot in range(50)
        for purpose in (vector.TRAINING, vector.EVALUATION)
    ]
    assert len(set(seeds)) == len(seeds)
    assert vector.seed_of(1, 2) == vector.seed_of(1, 2, vector.TRAINING)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_only_box_actions_are_clipped_each_element_to_its_own_bounds() -> None:
    box = ActionSpec("box", ArraySpec((2,), "float32"), low=(-1.0, 0.0), high=(1.0, 0.5))
    assert vector.clip_action(np.array([[-3.0, 0.2], [0.5, 9.0]]), box).tolist() == [[-1.0, 0.2], [0.5, 0.5]]
    discrete = ActionSpec("discrete", ArraySpec((), "int64"), n=2)
    actions = np.array([0, 1])
    assert vector.clip_action(actions, discrete) is actions
