"""Whole runs by the command: start them, wait for things to happen, read what they leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.processes import HOME

DEADLINE_S = 60.0
SMALL_PPO = ("ppo.unroll_length=16", "ppo.minibatch_size=64", "ppo.epochs=2")
_ENDLESS = ("--env-steps", "100000000", "--actors", "2", "--set")
ENDLESS_PPO = ("--algorithm", "ppo", *_ENDLESS, "checkpoint.every_env_steps=2000", *SMALL_PPO)
ENDLESS_DQN = ("--algorithm", "dqn", *_ENDLESS, "dqn.min_size=200", "checkpoint.every_s=0.5", "faults.restarts=3")
_PORTS = itertools.count(20_000 + os.getpid() % 1000 * 10)  # below those that the kernel gives out
Train = Callable[..., "subprocess.Popen[str]"]


def shoal(folder: Path, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
    """Start `shoal ...` in that folder; what it prints goes to the log, or through pipes."""
    command = [sys.executable, "-m", "shoal", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    with log.open("w") if log is not None else contextlib.nullcontext(subprocess.PIPE) as out:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, text=True)


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Start `shoal train` in an empty folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, run: str = "run") -> subprocess.Popen[str]:
        started.append(shoal(tmp_path, "train", "--run-dir", str(tmp_path / run), *arguments))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out + err


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str], what: str, timeout_s: float = DEADLINE_S
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline_s, f"{what} did not happen within {timeout_s} s"
        select.select([], [], [], 0.01)


def summary(tmp_path: Path, run: str = "run") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tmp_path / run / "summary.json").read_text())
    return document


def records(tmp_path: Path, run: str = "run") -> list[dict[str, Any]]:
    """What the learner has written so far; a line that is half written is left for later."""
    path = tmp_path / run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def env_steps(tmp_path: Path, run: str = "run") -> int:
    return max((record["env_steps"] for record in records(tmp_path, run)), default=0)


def free_ports(number: int) -> list[int]:
    """So many ports in a row that nobody has; each is given once."""
    while True:
        found = [next(_PORTS) for _ in range(number)]
        try:
            for port in found:
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
            return found
        except OSError:
            continue


def pids(tmp_path: Path) -> dict[int, str]:
    """The processes of runs in this folder, and what they are."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "shoal" in words[:-2] and _belongs(entry.parent, tmp_path):
            found[int(entry.parent.name)] = words[words.index("shoal") + 1]
    return found


def _belongs(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder or str(folder) in (process / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
