"""kill -9 of everything in async pace, and a resume: the curve goes on where it was."""

from __future__ import annotations

import os
import re
import signal
import statistics
from pathlib import Path

import pytest

from tests.e2e.envs import MODULE
from tests.e2e.runs import Train, finish, pids, records, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
RUN = ("--env", f"{MODULE}:Shown-v0", "--policy-lag", "async", "--actors", "2", "--env-steps", "10000000")
EVERY, WELL, UNTRAINED = 500, 14.0, 11.0
STEP = {"ppo": 2e-5, "dqn": 5e-5}
"""Small, so that a beginning can be told from an end."""


def evaluations(folder: Path) -> list[tuple[int, float]]:
    return [(line["env_steps"], line["eval_return"]) for line in records(folder) if line["kind"] == "evaluation"]


def saved_at(folder: Path) -> int:
    """Env steps at the newest checkpoint."""
    return max((int(path.name) for path in (folder / "run" / "checkpoints").glob("[0-9]*")), default=0)


def up_to(env_steps: int, evaluated: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(at, value) for at, value in evaluated if at <= env_steps]


def level(evaluated: list[tuple[int, float]]) -> float:
    return statistics.fmean([value for _, value in evaluated] or [0.0])


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_the_curve_has_no_drop(train: Train, tmp_path: Path, algorithm: str) -> None:
    """The run's own beginning is the wrong twin: a resume from nothing would show as that does."""
    where = ("--data-dir", str(tmp_path / "tables")) if algorithm == "dqn" else ()
    settings = (
        f"evaluation.every_env_steps={EVERY}",
        "checkpoint.every_s=1",
        f"{algorithm}.learning_rate={STEP[algorithm]}",
    )
    run = train("--algorithm", algorithm, *RUN, *where, "--target-return", "17", "--set", *settings)
    wait_until(lambda: level(up_to(saved_at(tmp_path), evaluations(tmp_path))[-3:]) > WELL, run, "learning")
    for pid in pids(tmp_path):
        os.kill(pid, signal.SIGKILL)
    finish(run)
    killed_at, _ = evaluations(tmp_path)[-1]
    run = train("--resume")
    beyond = killed_at + 5 * EVERY  # then what the killed learner wrote after its checkpoint has been taken back
    wait_until(lambda: evaluations(tmp_path)[-1:] > [(beyond, 0.0)], run, "evaluations after the resume")
    found = re.search(r"resumed from .*?(\d+)\D*$", (tmp_path / "run/logs/learner.log").read_text(), re.M)
    assert found is not None
    before, evaluated = up_to(int(found[1]), evaluations(tmp_path)), evaluations(tmp_path)
    after = evaluated[len(before) : len(before) + 3]
    run.send_signal(signal.SIGTERM)
    finish(run)
    print(f"{algorithm}: {before[:2]} at first, {before[-3:]} before the kill, {after} after it")
    assert level(before[-3:]) > WELL
    assert level(after) > WELL
    assert before[0][1] < UNTRAINED, "no drop could be seen"
