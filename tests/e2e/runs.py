"""Whole runs by the command: start them, wait for things to happen, read what they leave."""

from __future__ import annotations

import json
import os
import select
import signal
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
        if "shoal" in words[:-2] and _belongs(entry.parent, tmp_path):
            found[int(entry.parent.name)] = words[words.index("shoal") + 1]
    return found


def _belongs(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder or str(folder) in (process / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
