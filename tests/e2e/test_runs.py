"""Whole runs by the command, as a user starts them: what they leave, what stops them, what they survive."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.processes import HOME
from tests.e2e.envs import MODULE

pytestmark = pytest.mark.slow
DEADLINE_S = 60.0
SMALL_PPO = ("ppo.unroll_length=16", "ppo.minibatch_size=64", "ppo.epochs=2")
Train = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Start `shoal train` in an empty folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, run: str = "run") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "shoal", "train", "--run-dir", str(tmp_path / run), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out + err


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline_s, f"{what} did not happen within {DEADLINE_S} s"
        select.select([], [], [], 0.01)


def summary(tmp_path: Path, run: str = "run") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tmp_path / run / "summary.json").read_text())
    return document


def env_steps(tmp_path: Path, run: str = "run") -> int:
    path = tmp_path / run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["env_steps"] for line in lines if line.endswith("}")), default=0)


def pids(tmp_path: Path) -> dict[int, str]:
    """The processes of runs in this folder, and what they are."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "shoal" in words and os.environ.get("PYTEST_CURRENT_TEST") and _belongs(entry.parent, tmp_path):
            found[int(entry.parent.name)] = words[words.index("shoal") + 1]
    return found


def _belongs(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder or str(folder) in (process / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


@pytest.mark.parametrize("lag", ["0", "1"])
def test_the_same_seed_gives_the_same_weights_whatever_the_timing(train: Train, tmp_path: Path, lag: str) -> None:
    arguments = [
        *("--algorithm", "ppo", "--env", f"{MODULE}:Jitter-v0", "--actors", "2", "--envs-per-actor", "2"),
        *("--policy-lag", lag, "--env-steps", "3600", "--seed", "5", "--quiet", "--set", *SMALL_PPO),
    ]
    runs = [train(*arguments, run=run) for run in ("a", "b")]
    ends = [finish(run) for run in runs]
    assert [code for code, _ in ends] == [0, 0], ends
    a, b = summary(tmp_path, "a"), summary(tmp_path, "b")
    assert a["version"] >= 50
    assert a["deterministic"]
    assert a["weights_sha256"] == b["weights_sha256"]
    other = train(*arguments, "--seed", "6", run="c")
    assert finish(other)[0] == 0
    assert summary(tmp_path, "c")["weights_sha256"] != a["weights_sha256"], "a seed that changes nothing proves nothing"


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


def test_killed_actors_are_replaced_and_the_run_goes_on(train: Train, tmp_path: Path) -> None:
    run = train("--algorithm", "ppo", "--actors", "2", "--env-steps", "1000000", "--set", *SMALL_PPO)
    wait_until(lambda: env_steps(tmp_path) > 0, run, "the first steps")
    victim = _actor_pid(tmp_path)
    os.kill(victim, signal.SIGKILL)
    log = tmp_path / "run" / "logs" / "learner.log"
    wait_until(lambda: log.read_text().count("joined from") == 3, run, "the replacement")
    at = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > at, run, "further steps")
    run.send_signal(signal.SIGTERM)
    code, said = finish(run)
    assert code == 128 + signal.SIGTERM, said
    assert "killed by SIGKILL" in said
    assert summary(tmp_path)["restarts"] == 1


def _actor_pid(tmp_path: Path) -> int:
    found = re.findall(r"slot 0: joined from .* \(pid (\d+)\)", (tmp_path / "run" / "logs" / "learner.log").read_text())
    return int(found[-1])


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_ctrl_c_writes_the_checkpoint_and_ends_everything_within_3_s(
    train: Train, tmp_path: Path, algorithm: str
) -> None:
    run = train("--algorithm", algorithm, "--actors", "2", "--env-steps", "10000000")
    wait_until(lambda: env_steps(tmp_path) > 2000, run, "some steps")
    started_s = time.monotonic()
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert time.monotonic() - started_s < 3.0
    assert code == 130, said
    assert summary(tmp_path)["ended"] == "interrupted"
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert pids(tmp_path) == {}


@pytest.mark.parametrize("role", ["launcher", "learner"])
def test_kill_9_leaves_no_orphan(train: Train, tmp_path: Path, role: str) -> None:
    run = train("--algorithm", "dqn", "--actors", "2", "--env-steps", "10000000")
    wait_until(lambda: env_steps(tmp_path) > 2000, run, "some steps")
    alive = pids(tmp_path)
    assert sorted(alive.values()) == ["actor", "actor", "learner", "replay", "train"]
    victim = run.pid if role == "launcher" else next(pid for pid, what in alive.items() if what == "learner")
    os.kill(victim, signal.SIGKILL)
    code, said = finish(run)
    assert code == (-signal.SIGKILL if role == "launcher" else 128 + signal.SIGKILL), said
    deadline_s = time.monotonic() + 5.0
    while pids(tmp_path):
        assert time.monotonic() < deadline_s, pids(tmp_path)
        select.select([], [], [], 0.01)
    assert role == "launcher" or "killed by SIGKILL" in said


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", ("the simulator lost its licence", "RuntimeError", "Traceback", "its seed was", "the last action")),
        ("obs", ("obs = nan", "its seed was", "the action before it")),
    ],
)
def test_a_broken_environment_is_shown_and_ends_the_run_after_its_restarts(
    train: Train, how: str, words: tuple[str, ...]
) -> None:
    settings = (f"env_kwargs.how={how}", "faults.restarts=1", *SMALL_PPO)
    code, said = finish(train("--algorithm", "ppo", "--env", f"{MODULE}:Broken-v0", "--set", *settings))
    assert code == 3, said
    assert "restart 1 of 1" in said
    for word in words:
        assert word in said


def test_a_diverging_run_stops_and_says_what_is_not_finite(train: Train) -> None:
    settings = ("env_kwargs.how=reward", *SMALL_PPO)
    code, said = finish(train("--algorithm", "ppo", "--env", f"{MODULE}:Broken-v0", "--set", *settings))
    assert code == 5, said
    assert "is not finite" in said
    assert "slots [0]" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--env", "CartPole-v7"), ("unknown environment 'CartPole-v7'", "CartPole-v1")),
        (("--algorithm", "pppo"), ("'pppo'", "ppo")),
        (("--algorithm", "dqn", "--env", "Pendulum-v1"), ("discrete", "Box")),
        (("--set", "ppo.learning_rte=1", "ppo.gamma=1.5"), ("learning_rate", "ppo.gamma", "1.5")),
        (("--algorithm", "dqn", "--set", "dqn.min_size=100000", "dqn.replay_capacity=1000"), ("min_size", "1000")),
        (("--algorithm", "dqn", "--policy-lag", "1"), ("policy_lag", "async")),
        (("--set", "env_kwargs.nonsense=1"), ("nonsense",)),
        (("--listen", "127.0.0.1:99999"), ("99999",)),
        (("--device", "cuda"), ("cuda",)),
    ],
)
def test_bad_settings_end_with_a_message_before_anything_starts(
    train: Train, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, said = finish(train("--algorithm", "ppo", *arguments))
    assert code == 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(train: Train, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = finish(train("--algorithm", "ppo", "--listen", f"127.0.0.1:{port}"))
    assert code == 2, said
    assert str(port) in said
    assert "in use" in said


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


def test_a_dead_replay_server_ends_the_run_with_the_last_params_saved(train: Train, tmp_path: Path) -> None:
    run = train("--algorithm", "dqn", "--env-steps", "10000000", "--set", "dqn.hidden=[16]")
    wait_until(lambda: env_steps(tmp_path) > 3000, run, "some steps")
    os.kill(next(pid for pid, what in pids(tmp_path).items() if what == "replay"), signal.SIGKILL)
    code, said = finish(run)
    assert code != 0
    assert "replay" in said
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_ctrl_c_in_an_evaluation_keeps_the_checkpoint(train: Train, tmp_path: Path) -> None:
    settings = ("evaluation.every_env_steps=300", "evaluation.episodes=100000", *SMALL_PPO)
    run = train("--algorithm", "ppo", "--target-return", "501", "--env-steps", "10000000", "--set", *settings)
    wait_until(lambda: env_steps(tmp_path) > 0, run, "the first steps")
    started_s = time.monotonic()
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert time.monotonic() - started_s < 3.0
    assert code == 130, said
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
