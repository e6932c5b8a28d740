"""examples/: a module of the user's own through real processes, and the configurations that are written down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import shoal
from core import algorithms
from core import config as configuration
from core import envs as vector
from core.algorithms import REGISTRY, make
from core.algorithms.dqn_settings import DQNConfig
from core.rl import torsos
from shoal.processes import HOME

EXAMPLES = HOME / "examples"


@pytest.mark.slow
def test_an_algorithm_a_network_and_an_environment_of_ones_own_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HOME)  # where the module is found by its name
    monkeypatch.setattr(algorithms, "REGISTRY", dict(REGISTRY))  # loading the policy imports it here, too
    monkeypatch.setattr(torsos, "TORSOS", dict(torsos.TORSOS))
    monkeypatch.setattr(vector, "_FACTORIES", {})
    monkeypatch.delitem(sys.modules, "examples.own", raising=False)
    result = shoal.train(
        algorithm="cross_entropy",
        env="Corridor",
        imports=["examples.own"],
        actors=2,
        envs_per_actor=8,
        env_steps=20_000,
        target_return=0.1,
        run_dir=tmp_path / "run",
        quiet=True,
        settings={"cross_entropy.network": "doubled", "env_kwargs": {"length": 8}, "evaluation.every_env_steps": 2_000},
    )
    assert result.solved_at_env_steps is not None
    assert result.eval_return == pytest.approx(0.3)  # eight steps straight to the right
    assert result.load().act([0.5]) == 1


@pytest.mark.slow
def test_a_module_that_is_nowhere_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(shoal.ConfigError, match=r"'examples\.nowhere' cannot be imported"):
        shoal.train(imports=["examples.nowhere"], run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["rainbow", "apex"])
def test_the_examples_configurations_are_what_they_say(name: str) -> None:
    config, problems = configuration.read(EXAMPLES / f"{name}.yaml", algorithms=REGISTRY)
    assert problems == []
    assert config is not None
    settings = getattr(make(config.algorithm, config.settings), "config")  # noqa: B009
    assert isinstance(settings, DQNConfig)
    assert (settings.replay, settings.double, settings.dueling, settings.n_step) == ("prioritised", True, True, 3)
    if name == "rainbow":
        assert (settings.distribution, settings.noisy) == ("c51", True)
    else:
        assert (settings.actor_priorities, settings.epsilon_per_actor) == (True, True)
    assert yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["algorithm"] == "dqn"
