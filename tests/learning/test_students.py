"""An expert of PPO, its episodes by `shoal collect`, then bc and dagger: each must reach 95 % of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import shoal

SWIG = "ignore:builtin type .* has no __module__:DeprecationWarning"
"""As an error it crashes the import of Box2D."""


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings(SWIG)
@pytest.mark.parametrize(
    ("env", "target_return", "episodes", "bc_env_steps", "dagger_env_steps"),
    [("CartPole-v1", 475, 20, 40_000, 40_000), ("LunarLander-v3", 250, 100, 200_000, 60_000)],
)
def test_students_reach_95_percent_of_their_expert(
    env: str,
    target_return: float,
    episodes: int,
    bc_env_steps: int,
    dagger_env_steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    expert = shoal.train(
        algorithm="ppo", env=env, target_return=target_return, run_dir=tmp_path / "expert", quiet=True, seed=1
    )
    assert expert.solved_at_env_steps is not None
    found = shoal.collect(expert.run_dir, "students/expert-v0", episodes=episodes)
    assert found.mean_return >= 0.9 * target_return
    for algorithm, setting, source, env_steps in (
        ("bc", "bc.dataset", "students/expert-v0", bc_env_steps),
        ("dagger", "dagger.expert", str(expert.run_dir), dagger_env_steps),
    ):
        student = shoal.train(
            algorithm=algorithm,
            env=env,
            env_steps=env_steps,
            run_dir=tmp_path / algorithm,
            quiet=True,
            settings={setting: source, "evaluation.episodes": 100},
        )
        assert student.eval_return is not None
        assert student.eval_return >= 0.95 * found.mean_return, algorithm
