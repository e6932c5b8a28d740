"""What the machine does to a run: it is to go at once, or memory runs out."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest

from core import rpc
from core.errors import ShoalError
from protos import experience_pb2
from tests.e2e.runs import DEADLINE_S, ENDLESS_DQN, Train, env_steps, finish, pids, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
GONE_S = 10.0


def stopped(tmp_path: Path, roles: tuple[str, ...]) -> None:
    for pid, role in pids(tmp_path).items():
        if role in roles:
            os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("hung", [(), ("replay",), ("learner", "replay", "actor")])
def test_all_is_gone_within_ten_seconds_of_sigterm(train: Train, tmp_path: Path, hung: tuple[str, ...]) -> None:
    run = train(*ENDLESS_DQN, "--data-dir", str(tmp_path / "tables"))
    wait_until(lambda: env_steps(tmp_path) > 1000, run, "the first steps")
    stopped(tmp_path, hung)
    began_s = time.monotonic()
    run.send_signal(signal.SIGTERM)
    code, said = finish(run)
    assert time.monotonic() - began_s < GONE_S
    assert code == 128 + signal.SIGTERM, said
    assert pids(tmp_path) == {}
    assert bool(list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))) or "learner" in hung


def loading(tmp_path: Path, former: int) -> int | None:
    """A learner other than the former that loads its libraries."""
    for pid, role in pids(tmp_path).items():
        if role == "learner" and pid != former:
            with contextlib.suppress(OSError, IndexError, ValueError):
                if int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() > 40 << 20:
                    return pid
    return None


def another_life(log: Path, lives: int, ask: bool) -> bool:
    """Whether it came; `ask`ing makes the one that is there want memory."""
    text = log.read_text()
    found = re.search(r"listens on (127\.0\.0\.1:\d+)", text)
    if ask and found is not None:
        with contextlib.suppress(ShoalError), rpc.open_channel(found[1]) as channel:
            client = rpc.Client(channel, experience_pb2.DESCRIPTOR.services_by_name["Experience"], "the replay server")
            client.unary("Info", experience_pb2.InfoRequest(), experience_pb2.InfoReply, 0.5)
    return text.count("--- 20") == lives


@pytest.mark.parametrize("who", ["learner", "replay"])
def test_who_gets_no_memory_is_started_again(train: Train, tmp_path: Path, who: str) -> None:
    run = train(*ENDLESS_DQN)
    wait_until(lambda: env_steps(tmp_path) > 1000, run, "the first steps")
    wait_until(lambda: bool(list((tmp_path / "run/checkpoints").glob("[0-9]*"))), run, "a checkpoint")
    lives = 3 if who == "learner" else 2
    (victim,) = [pid for pid, role in pids(tmp_path).items() if role == who]
    if who == "learner":  # one that trains needs nothing new: the one that comes after it has to do without
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: loading(tmp_path, victim) is not None, run, "its second life")
        victim = loading(tmp_path, victim) or victim
    resource.prlimit(victim, resource.RLIMIT_AS, (1 << 20, 1 << 20))  # what it has, it keeps
    log = tmp_path / "run" / "logs" / f"{who}.log"
    wait_until(lambda: another_life(log, lives, who == "replay"), run, "another life", 2 * DEADLINE_S)
    at = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > at + 1000, run, "progress", 2 * DEADLINE_S)
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    assert "started again" in said
