"""Whole runs by the command, as a user starts them, and what they leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.processes import HOME
from tests.e2e.envs import MODULE
from tests.e2e.runs import DEADLINE_S, SMALL_PPO, Train, finish, summary, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("lag", ["0", pytest.param("1", marks=pytest.mark.long)])
def test_the_same_seed_gives_the_same_weights_whatever_the_timing(train: Train, tmp_path: Path, lag: str) -> None:
    arguments = [
        *("--algorithm", "ppo", "--env", f"{MODULE}:Jitter-v0", "--actors", "2", "--envs-per-actor", "2"),
        *("--policy-lag", lag, "--env-steps", "3600", "--seed", "5", "--quiet", "--set", *SMALL_PPO),
    ]
    runs = [train(*arguments, run=run) for run in ("a", "b")]
    other = train(*arguments, "--seed", "6", run="c")
    ends = [finish(run) for run in (*runs, other)]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    a, b, c = (summary(tmp_path, run) for run in "abc")
    assert a["version"] >= 50
    assert a["deterministic"]
    assert a["weights_sha256"] == b["weights_sha256"]
    assert c["weights_sha256"] != a["weights_sha256"], "a seed that changes nothing proves nothing"


def test_a_run_can_be_loaded_played_and_resumed(train: Train, tmp_path: Path) -> None:
    arguments = ("--algorithm", "ppo", "--env", "CartPole-v1", "--set", *SMALL_PPO)
    code, said = finish(train(*arguments, "--env-steps", "3000"))
    assert code == 0, said
    first = summary(tmp_path)
    for name in ("config.yaml", "metrics.jsonl", "learning_curve.png", "tensorboard", "checkpoints", "logs"):
        assert (tmp_path / "run" / name).exists(), name
    assert first["env_steps"] >= 3000
    assert first["eval_return"] > 0
    assert first["solved_at_env_steps"] is None
    policy = shoal.load(tmp_path / "run")
    assert int(policy.act(np.zeros(4, np.float32))) in (0, 1)

    code, said = finish(train(*arguments, "--env-steps", "5000"))
    assert code == 2
    assert "--resume" in said
    assert "--overwrite" in said

    code, said = finish(train(*arguments, "--env-steps", "5000", "--resume"))
    assert code == 0, said
    second = summary(tmp_path)
    assert second["env_steps"] >= 5000
    assert second["updates"] > first["updates"]
    assert second["version"] > first["version"]


@pytest.mark.parametrize("replay", ["process", "embedded"])
def test_dqn_keeps_its_ratio_of_updates(train: Train, tmp_path: Path, replay: str) -> None:
    settings = ("dqn.min_size=500", "dqn.updates_per_env_step=0.25", "dqn.hidden=[16]", "dqn.unroll_length=8")
    code, said = finish(
        train("--algorithm", "dqn", "--replay", replay, "--actors", "2", "--env-steps", "6000", "--set", *settings)
    )
    assert code == 0, said
    end = summary(tmp_path)
    assert end["updates"] % 16 == 0
    assert end["updates"] == pytest.approx((end["env_steps"] - 500) * 0.25, rel=0.25)
    assert (tmp_path / "run" / "logs" / "replay.log").exists() == (replay == "process")


def test_ppo_runs_async_too(train: Train, tmp_path: Path) -> None:
    code, said = finish(
        train(
            "--algorithm", "ppo", "--policy-lag", "async", "--actors", "2", "--env-steps", "4000", "--set", *SMALL_PPO
        )
    )
    assert code == 0, said
    end = summary(tmp_path)
    assert end["policy_lag"] == "async"
    assert not end["deterministic"]
    assert end["updates"] > 0


def test_another_machine_s_actor_may_join_by_the_address_that_is_printed(train: Train, tmp_path: Path) -> None:
    run = train("--algorithm", "dqn", "--env-steps", "10000000")
    log = tmp_path / "run" / "logs" / "learner.log"
    wait_until(lambda: log.exists() and "listens on" in log.read_text(), run, "the address")
    found = re.search(r"listens on ([0-9.]+:\d+)", log.read_text())
    assert found is not None
    command = [sys.executable, "-m", "shoal", "actor", "--learner", found[1]]
    actor = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(HOME)}, cwd=tmp_path)
    try:
        replay = tmp_path / "run" / "logs" / "replay.log"
        wait_until(lambda: "slot 1 inserts" in replay.read_text(), run, "the second actor's first unroll")
        assert actor.poll() is None
    finally:
        run.send_signal(signal.SIGINT)
        finish(run)
        assert actor.wait(DEADLINE_S) == 0


def test_train_is_a_python_function(tmp_path: Path) -> None:
    result = shoal.train(
        algorithm="ppo", env="CartPole-v1", env_steps=2000, run_dir=tmp_path / "run", quiet=True, settings={"seed": 3}
    )
    assert result.env_steps >= 2000
    assert result.seed == 3
    assert int(result.load().act(np.zeros(4, np.float32))) in (0, 1)
