"""CartPole-v1 to 475, by the command's own function: one seed always, five of the default presets on demand.

Budgets are env_steps. A fixed lag repeats exactly; DQN's preset is async, so its count depends on timing.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

import shoal

WORST = 100_000
MEDIAN = {"ppo": 40_000, "dqn": 60_000}


PRIORITISED = {"policy_lag": 1, "dqn.replay": "prioritised", "dqn.actor_priorities": True}


def solved_at(algorithm: str, seed: int, folder: Path, settings: dict[str, Any] | None = None) -> int:
    """Env steps at which an evaluation first reached 475; a number over every budget where none did."""
    result = shoal.train(
        algorithm=algorithm,
        settings=settings or {},
        env="CartPole-v1",
        seed=seed,
        env_steps=WORST,
        target_return=475,
        run_dir=folder / f"{algorithm}-{seed}",
        quiet=True,
    )
    return result.solved_at_env_steps or 10 * WORST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings"), [("ppo", {}), pytest.param("dqn", PRIORITISED, marks=pytest.mark.long)]
)
def test_one_seed_learns(algorithm: str, settings: dict[str, Any], tmp_path: Path) -> None:
    assert solved_at(algorithm, 1, tmp_path, settings) <= WORST


@pytest.mark.learning
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_five_seeds_learn_within_the_budget(algorithm: str, tmp_path: Path) -> None:
    counts = [solved_at(algorithm, seed, tmp_path) for seed in range(1, 6)]
    assert max(counts) <= WORST, counts
    assert statistics.median(counts) <= MEDIAN[algorithm], counts


REACH = {
    "reinforce": 300_000,
    "actor_critic": 300_000,
    "a2c": 500_000,
    "a3c": 500_000,
    "npg": 200_000,
    "trpo": 100_000,
    "impala": 300_000,
    "es": 2_000_000,
    "finite_difference": 1_000_000,
}
"""Env steps within which the median of three seeds must have been evaluated at 475 (finite differences: 400)."""


@pytest.mark.learning
@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", REACH)
def test_every_algorithms_preset_solves_it(algorithm: str, tmp_path: Path) -> None:
    counts = []
    for seed in (1, 2, 3):
        result = shoal.train(
            algorithm=algorithm,
            env="CartPole-v1",
            seed=seed,
            env_steps=REACH[algorithm],
            target_return=400 if algorithm == "finite_difference" else 475,
            run_dir=tmp_path / str(seed),
            quiet=True,
        )
        counts.append(result.solved_at_env_steps or 10 * REACH[algorithm])
    assert statistics.median(counts) <= REACH[algorithm], counts


@pytest.mark.slow
def test_without_learning_nothing_is_solved(tmp_path: Path) -> None:
    """The wrong twin: the same run with a learning rate that moves nothing must miss its target."""
    result = shoal.train(
        algorithm="ppo",
        env="CartPole-v1",
        env_steps=20_000,
        target_return=475,
        run_dir=tmp_path / "run",
        quiet=True,
        settings={"ppo.learning_rate": 1e-12},
    )
    assert result.solved_at_env_steps is None
