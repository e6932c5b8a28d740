"""A learner or a replay server that is stopped for good (SIGSTOP): it is killed, started again, and the run goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.runs import DEADLINE_S, SMALL_PPO, Train, env_steps, finish, pids, records, summary, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
IMPATIENT = ("faults.learner_patience_s=2", "network.keepalive_s=1", "checkpoint.every_s=0.5")
RUNS = {
    "learner": ("--algorithm", "ppo", "--set", *SMALL_PPO, *IMPATIENT),
    "replay": ("--algorithm", "dqn", "--set", "dqn.min_size=200", *IMPATIENT),
}


@pytest.mark.parametrize("who", RUNS)
def test_who_hangs_is_killed_and_started_again(train: Train, tmp_path: Path, who: str) -> None:
    algorithm, name, *settings = RUNS[who]
    run = train(algorithm, name, "--env-steps", "100000000", "--actors", "2", *settings)
    wait_until(lambda: env_steps(tmp_path) > 1000, run, "the first steps")
    (hung,) = [pid for pid, role in pids(tmp_path).items() if role == who]
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: not Path(f"/proc/{hung}").exists(), run, "its end", 2 * DEADLINE_S)
    at = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > at + 1000, run, "progress", 2 * DEADLINE_S)
    wait_until(lambda: records(tmp_path)[-1].get("actors") == 2, run, "both actors", 2 * DEADLINE_S)
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    assert f"{who} lives and does not answer" in said
    assert f"{who} was killed by SIGKILL" in said
    assert summary(tmp_path)["resumes"] >= 1
