"""kill -9 of a learner, then of everything, and a resume: with a fixed lag the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from core import checkpoint
from tests.e2e.runs import Train, env_steps, finish, pids, summary, wait_until
from tests.metas import change_meta

pytestmark = pytest.mark.slow
PPO = ("--algorithm", "ppo", "--env-steps", "8000", "--envs-per-actor", "8", "--actors", "2", "--policy-lag", "1")
PPO_SET = ("ppo.unroll_length=16", "ppo.minibatch_size=64", "ppo.epochs=2")
DQN = ("--algorithm", "dqn", "--env-steps", "7000", "--envs-per-actor", "4", "--actors", "2", "--policy-lag", "1")
DQN_SET = ("dqn.replay=prioritised", "dqn.replay_capacity=3000", "dqn.min_size=500", "dqn.hidden=[32]")
EVERY = "checkpoint.every_env_steps=1000"
RUNS = {"ppo": (*PPO, "--set", EVERY, *PPO_SET), "dqn": (*DQN, "--set", EVERY, *DQN_SET)}


def flags(algorithm: str, tmp_path: Path, run: str = "run") -> tuple[str, ...]:
    """Of a run; its tables are on the disk: those in memory go when another launcher finds that theirs was killed."""
    return ("--data-dir", str(tmp_path / f"{run}-tables"), *RUNS[algorithm])


def kill(tmp_path: Path, *roles: str) -> None:
    for pid, role in pids(tmp_path).items():
        if role in roles:
            os.kill(pid, signal.SIGKILL)


def wait_for_steps(tmp_path: Path, run: subprocess.Popen[str], least: int) -> None:
    wait_until(lambda: env_steps(tmp_path) > least, run, f"{least} env steps")


def whole(train: Train, tmp_path: Path, flags: tuple[str, ...]) -> str:
    """The weights of a run that nothing happens to."""
    code, said = finish(train(*flags, run="whole"))
    assert code == 0, said
    assert summary(tmp_path, "whole")["deterministic"]
    weights: str = summary(tmp_path, "whole")["weights_sha256"]
    return weights


def check_page(log: str) -> None:
    """The learner's second life serves the page where its first one did, with the curves of both."""
    first, second = re.findall(r"^page at (\S+)$", log, re.M)
    assert first == second
    with urllib.request.urlopen(f"{second}live.json", timeout=10) as answer:
        at = json.load(answer)["progress"]["env_steps"]
    assert at[0] < 2500 < at[-1]


@pytest.mark.parametrize("algorithm", [pytest.param("ppo", marks=pytest.mark.long), "dqn"])
def test_killed_runs_go_on_as_if_nothing_had_been(train: Train, tmp_path: Path, algorithm: str) -> None:
    run = train(*flags(algorithm, tmp_path), "--resume", "auto")
    wait_for_steps(tmp_path, run, 2500)
    kill(tmp_path, "learner")
    log = tmp_path / "run/logs/learner.log"
    wait_until(lambda: "resumed from" in log.read_text(), run, "the resume")
    wait_for_steps(tmp_path, run, 4500)
    check_page(log.read_text())
    kill(tmp_path, "train", "learner", "actor", "replay")
    _, said = finish(run)
    assert "learner was killed by SIGKILL" in said
    assert "It is started again (restart 1 of 3), from its newest checkpoint." in said
    code, said = finish(train("--resume", "auto"))
    assert code == 0, said
    result = summary(tmp_path)
    assert (result["deterministic"], result["resumes"]) == (True, 2)
    assert result["weights_sha256"] == whole(train, tmp_path, flags(algorithm, tmp_path, "whole"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    at = [line["env_steps"] for line in lines]
    assert at == sorted(at), "what a killed learner wrote beyond its checkpoint is taken back"


@pytest.mark.long
def test_without_what_a_reset_point_keeps_the_weights_are_others(train: Train, tmp_path: Path) -> None:
    """The comparison above can fail, and such a run says so."""
    short = (*RUNS["ppo"], "--env-steps", "4000")
    run = train(*short)
    wait_for_steps(tmp_path, run, 1500)
    run.send_signal(signal.SIGINT)
    finish(run)
    *older, newest = checkpoint.all_in(tmp_path / "run/checkpoints")
    for path in older:
        shutil.rmtree(path)
    change_meta(newest, resume=None)
    code, said = finish(train("--resume"))
    assert code == 0, said
    result = summary(tmp_path)
    assert not result["deterministic"]
    assert result["weights_sha256"] != whole(train, tmp_path, short)
