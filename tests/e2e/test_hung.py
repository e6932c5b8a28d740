"""A process that is stopped for good (SIGSTOP): it is killed and started again, and the run goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.runs import DEADLINE_S, SMALL_PPO, Train, env_steps, finish, pids, records, summary, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
IMPATIENT = ("faults.learner_patience_s=2", "network.keepalive_s=1", "checkpoint.every_s=0.5")
RUNS = {
    "learner": ("--algorithm", "ppo", "--actors", "2", "--set", *SMALL_PPO, *IMPATIENT),
    "replay": ("--algorithm", "dqn", "--actors", "2", "--set", "dqn.min_size=200", *IMPATIENT),
    "actor": (
        "--algorithm",
        "ppo",
        "--actors",
        "1",
        "--set",
        "faults.rejoin_grace_s=1",
        "faults.step_deadline_s=9",
        *SMALL_PPO,
        *IMPATIENT,
    ),
}


@pytest.mark.parametrize("who", RUNS)
def test_who_hangs_is_killed_and_started_again(train: Train, tmp_path: Path, who: str) -> None:
    run = train("--env-steps", "100000000", *RUNS[who])
    wait_until(lambda: env_steps(tmp_path) > 1000, run, "the first steps")
    actors, name = (1, "actor-0") if who == "actor" else (2, who)
    (hung,) = [pid for pid, role in pids(tmp_path).items() if role == who]
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: not Path(f"/proc/{hung}").exists(), run, "its end", 2 * DEADLINE_S)
    at = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > at + 1000, run, "progress", 2 * DEADLINE_S)
    wait_until(lambda: records(tmp_path)[-1].get("actors") == actors, run, "all actors", 2 * DEADLINE_S)
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    assert f"{name} lives and does not answer" in said
    assert f"{name} was killed by SIGKILL" in said
    assert who == "actor" or summary(tmp_path)["resumes"] >= 1
