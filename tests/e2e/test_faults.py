"""Whole runs by the command under bad luck and bad input: a clear message, an exit code, nothing lost."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import time
from pathlib import Path

import pytest

from core import checkpoint
from tests.e2e.envs import MODULE
from tests.e2e.runs import SMALL_PPO, Train, env_steps, finish, pids, summary, wait_until

pytestmark = pytest.mark.slow


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
    budget = ("--set", "faults.restarts=0")
    run = train("--algorithm", "dqn", "--actors", "2", "--env-steps", "10000000", *budget)
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
        ("memory", ("MemoryError", "its seed was", "the last action")),
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


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("hang", ("has not come back for", "step_deadline_s 2", "seed", "last action", "threading.py", "unroller.py")),
        ("hang-in-c", ("Timeout", "unroller.py")),
        pytest.param(
            *("hang-in-reset", ("has not come back for", "in reset", "learner/main.py")), marks=pytest.mark.long
        ),
        pytest.param(
            *("hang-when-made", ("the making of environment", "has not come back for", "in __init__")),
            marks=pytest.mark.long,
        ),
    ],
)
def test_an_environment_that_hangs_ends_its_actor_with_the_stacks(
    train: Train, how: str, words: tuple[str, ...]
) -> None:
    settings = (f"env_kwargs.how={how}", "faults.restarts=0", "faults.step_deadline_s=2", *SMALL_PPO)
    code, said = finish(train("--algorithm", "ppo", "--env", f"{MODULE}:Broken-v0", "--set", *settings))
    assert code == (1 if how == "hang-in-c" else 3), said
    for word in (*words, "envs.py"):
        assert word in said
    assert how == "hang-in-reset" or "No actor is left" in said


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


@pytest.mark.parametrize("unmended", [("faults.restarts=0",), ("replay_data_dir=memory",)])
def test_a_replay_server_that_cannot_come_back_ends_the_run_with_the_last_params_saved(
    unmended: tuple[str, ...], train: Train, tmp_path: Path
) -> None:
    run = train("--algorithm", "dqn", "--env-steps", "10000000", "--set", "dqn.hidden=[16]", *unmended)
    wait_until(lambda: env_steps(tmp_path) > 3000, run, "some steps")
    os.kill(next(pid for pid, what in pids(tmp_path).items() if what == "replay"), signal.SIGKILL)
    code, said = finish(run)
    assert code != 0
    assert "replay" in said
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_full_disk_costs_checkpoints_and_nothing_else(train: Train, tmp_path: Path) -> None:
    """A limit on the size of the learner's files: it meets the same error as on a full disk, and it can be lifted."""
    settings = ("checkpoint.every_env_steps=500", "ppo.hidden=[256,256]", *SMALL_PPO)
    run = train("--algorithm", "ppo", "--policy-lag", "1", "--env-steps", "10000000", "--set", *settings)
    folder, log = tmp_path / "run" / "checkpoints", tmp_path / "run" / "logs" / "learner.log"
    wait_until(lambda: len(checkpoint.all_in(folder)) > 1, run, "two checkpoints")
    learner = next(pid for pid, what in pids(tmp_path).items() if what == "learner")
    _, most = resource.prlimit(learner, resource.RLIMIT_FSIZE)
    resource.prlimit(learner, resource.RLIMIT_FSIZE, (100_000, most))
    wait_until(lambda: "cannot write checkpoint" in log.read_text(), run, "a failed checkpoint")
    newest, at = checkpoint.latest(folder), env_steps(tmp_path)
    checkpoint.read(newest)
    wait_until(lambda: env_steps(tmp_path) > at, run, "further steps")
    assert "the run goes on, and the one before stays" in log.read_text()
    resource.prlimit(learner, resource.RLIMIT_FSIZE, (most, most))
    wait_until(lambda: checkpoint.latest(folder) != newest, run, "the next checkpoint")
    run.send_signal(signal.SIGTERM)
    code, said = finish(run)
    assert code == 128 + signal.SIGTERM, said
    assert not list(folder.glob(".tmp-*"))


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
