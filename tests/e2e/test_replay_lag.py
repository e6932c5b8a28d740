"""DQN at a fixed lag: whatever the timing of actors and replay server, the same seed gives the same weights."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.envs import MODULE
from tests.e2e.runs import Train, env_steps, finish, pids, summary, wait_until

pytestmark = pytest.mark.slow
MIN_SIZE = 200
UNIFORM = (
    *("dqn.unroll_length=8", "dqn.hidden=[16]", "dqn.batch_size=16", f"dqn.min_size={MIN_SIZE}", "dqn.n_step=3"),
    *("dqn.replay_capacity=400", "dqn.updates_per_env_step=0.3", "evaluation.episodes=2"),
)
PRIORITISED = (*UNIFORM, "dqn.replay=prioritised", "dqn.actor_priorities=true")


def arguments(lag: str, settings: tuple[str, ...], env_steps: int = 1200) -> list[str]:
    return [
        *("--algorithm", "dqn", "--env", f"{MODULE}:Jitter-v0", "--actors", "3", "--envs-per-actor", "2"),
        *("--policy-lag", lag, "--env-steps", str(env_steps), "--seed", "5", "--quiet", "--set", *settings),
    ]


def check_updates(end: dict[str, Any]) -> None:
    """Their number is arithmetic."""
    assert end["updates"] == (end["env_steps"] - MIN_SIZE) * 3 // 10


@pytest.mark.parametrize(
    ("lag", "settings", "place"),
    [
        ("0", UNIFORM, "embedded"),
        pytest.param("1", UNIFORM, "process", marks=pytest.mark.long),
        pytest.param("1", PRIORITISED, "process", marks=pytest.mark.long),
    ],
)
def test_the_same_seed_gives_the_same_weights_whatever_the_timing(
    train: Train, tmp_path: Path, lag: str, settings: tuple[str, ...], place: str
) -> None:
    runs = [train(*arguments(lag, settings), run="a"), train(*arguments(lag, settings), "--replay", place, run="b")]
    other = train(*arguments(lag, settings), "--seed", "6", run="c")
    ends = [finish(run) for run in (*runs, other)]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    a, b, c = (summary(tmp_path, run) for run in "abc")
    assert a["version"] >= 25
    assert a["deterministic"]
    assert (a["policy_lag"], a["max_staleness"]) == (int(lag), int(lag))
    check_updates(a)
    assert a["weights_sha256"] == b["weights_sha256"]
    assert c["weights_sha256"] != a["weights_sha256"], "a seed that changes nothing proves nothing"


@pytest.mark.long
def test_a_killed_actor_is_replaced_and_the_run_ends_well(train: Train, tmp_path: Path) -> None:
    run = train(*arguments("1", PRIORITISED, env_steps=4000))
    wait_until(lambda: env_steps(tmp_path) > 0, run, "the first steps")
    log = (tmp_path / "run" / "logs" / "learner.log").read_text()
    found = re.findall(r"slot 1: joined from .* \(pid (\d+)\)", log)
    os.kill(int(found[-1]), signal.SIGKILL)
    code, said = finish(run)
    assert code == 0, said
    end = summary(tmp_path)
    assert end["restarts"] == 1
    assert not end["deterministic"]
    assert end["env_steps"] >= 4000
    check_updates(end)


@pytest.mark.long
def test_a_killed_replay_server_changes_nothing(train: Train, tmp_path: Path) -> None:
    runs = [train(*arguments("1", PRIORITISED), run=run) for run in ("a", "b")]
    wait_until(lambda: env_steps(tmp_path, "b") > MIN_SIZE, runs[1], "the first updates")
    os.kill(_replay_pid(tmp_path, runs[1].pid), signal.SIGKILL)
    ends = [finish(run) for run in runs]
    assert [code for code, _ in ends] == [0, 0], ends
    a, b = summary(tmp_path, "a"), summary(tmp_path, "b")
    assert a["deterministic"]
    assert b["deterministic"]
    assert a["weights_sha256"] == b["weights_sha256"]


@pytest.mark.long
def test_actors_and_replay_server_killed_together_end_no_run(train: Train, tmp_path: Path) -> None:
    run = train(*arguments("1", PRIORITISED, env_steps=4000))
    wait_until(lambda: env_steps(tmp_path) > MIN_SIZE, run, "the first updates")
    all_but_the_learner = [pid for pid, what in pids(tmp_path).items() if what in ("replay", "actor")]
    for pid in all_but_the_learner:  # all that was staged is gone with those who could send it again
        os.kill(pid, signal.SIGKILL)
    code, said = finish(run)
    assert code == 0, said
    end = summary(tmp_path)
    assert end["restarts"] == 3
    assert not end["deterministic"]
    assert end["env_steps"] >= 4000
    check_updates(end)


def _replay_pid(tmp_path: Path, parent: int) -> int:
    return next(
        pid
        for pid, what in pids(tmp_path).items()
        if what == "replay" and f"PPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()
    )
