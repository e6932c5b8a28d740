"""An expert of PPO, its episodes by `shoal collect`, then bc and dagger: each must reach 95 % of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import shoal


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings(
    "ignore:builtin type .* has no __module__:DeprecationWarning"
)  # else Box2D's import crashes
@pytest.mark.parametrize(
    ("env", "target_return", "episodes", "env_steps"),
    [
        ("CartPole-v1", 475, 20, {"bc": 40_000, "dagger": 40_000}),
        ("LunarLander-v3", 250, 100, {"bc": 200_000, "dagger": 60_000}),
    ],
)
def test_students_reach_95_percent_of_their_expert(
    env: str,
    target_return: float,
    episodes: int,
    env_steps: dict[str, int],
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
    for algorithm, source in (("bc", "dataset=students/expert-v0"), ("dagger", f"expert={expert.run_dir}")):
        name, value = source.split("=")
        student = shoal.train(
            algorithm=algorithm,
            env=env,
            env_steps=env_steps[algorithm],
            run_dir=tmp_path / algorithm,
            quiet=True,
            settings={f"{algorithm}.{name}": value, "evaluation.episodes": 100},
        )
        assert student.eval_return is not None
        assert student.eval_return >= 0.95 * found.mean_return
