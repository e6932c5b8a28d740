"""CartPole-v1 to 475 with the default presets, by the command's own function: one seed always, five on demand.

Budgets are env_steps. PPO in lag mode repeats exactly; DQN is async, so its count depends on timing.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

import shoal

WORST = 100_000
MEDIAN = {"ppo": 40_000, "dqn": 60_000}


def solved_at(algorithm: str, seed: int, folder: Path) -> int:
    """Env steps at which an evaluation first reached 475; a number over every budget where none did."""
    result = shoal.train(
        algorithm=algorithm,
        env="CartPole-v1",
        seed=seed,
        env_steps=WORST,
        target_return=475,
        run_dir=folder / f"{algorithm}-{seed}",
        quiet=True,
    )
    return result.solved_at_env_steps or 10 * WORST


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_one_seed_learns(algorithm: str, tmp_path: Path) -> None:
    assert solved_at(algorithm, 1, tmp_path) <= WORST


@pytest.mark.learning
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_five_seeds_learn_within_the_budget(algorithm: str, tmp_path: Path) -> None:
    counts = [solved_at(algorithm, seed, tmp_path) for seed in range(1, 6)]
    assert max(counts) <= WORST, counts
    assert statistics.median(counts) <= MEDIAN[algorithm], counts


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
