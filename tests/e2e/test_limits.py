"""What the machine does to a run: it is to go at once, the clock jumps, memory or room on the disk runs out."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import rpc
from core.errors import ShoalError
from protos import experience_pb2
from protos import learner_pb2 as pb
from tests.e2e.runs import DEADLINE_S, SMALL_PPO, Train, env_steps, finish, pids, records, summary, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
ENDLESS = ("--env-steps", "100000000", "--actors", "2")
PPO = ("--algorithm", "ppo", *ENDLESS, "--set", "checkpoint.every_env_steps=2000", *SMALL_PPO)
DQN = ("--algorithm", "dqn", *ENDLESS, "--set", "dqn.min_size=200", "checkpoint.every_s=0.5", "faults.restarts=3")
GONE_S = 10.0
DAY_S = 86_400


def stopped(tmp_path: Path, roles: tuple[str, ...]) -> None:
    for pid, role in pids(tmp_path).items():
        if role in roles:
            os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("hung", [(), ("replay",), ("learner", "replay", "actor")])
def test_all_is_gone_within_ten_seconds_of_sigterm(train: Train, tmp_path: Path, hung: tuple[str, ...]) -> None:
    run = train(*DQN, "--data-dir", str(tmp_path / "tables"))
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
    run = train(*DQN)
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


# ------------------------------------------------------------------------------------------------------------- clock

SHIM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *jump;

__attribute__((constructor)) static void open_jump(void) {
    int fd = open(getenv("CLOCK_JUMP"), O_RDONLY);
    void *at = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) jump = at;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && jump && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *jump;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    now->tv_sec = t.tv_sec, now->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""


class Clock:
    """The wall clock of processes that are started from now on: it may jump, in all of them at once."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, library, jump = folder / "shim.c", folder / "shim.so", folder / "jump"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        jump.write_bytes(bytes(8))
        self._file = jump.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 8)
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("CLOCK_JUMP", str(jump))

    def jump(self, seconds: int) -> None:
        """Be so far ahead of the true time."""
        self._map[:] = struct.pack("<q", seconds)

    def close(self) -> None:
        self._map.close()
        self._file.close()


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a clock with")
    clock = Clock(tmp_path, monkeypatch)
    yield clock
    clock.close()


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_clock_that_jumps_is_not_noticed(train: Train, tmp_path: Path, clock: Clock, algorithm: str) -> None:
    run = train(*(PPO if algorithm == "ppo" else DQN))
    wait_until(lambda: env_steps(tmp_path) > 1000, run, "the first steps")
    newest = 0.0
    for jump_s in (DAY_S, -2 * DAY_S, 0):
        clock.jump(jump_s)
        at = env_steps(tmp_path)
        wait_until(lambda at=at: env_steps(tmp_path) > at + 2000, run, f"progress after {jump_s} s")  # type: ignore[misc]
        assert records(tmp_path)[-1]["wall_s"] > newest
        newest = records(tmp_path)[-1]["wall_s"]
    log = (tmp_path / "run" / "logs" / "learner.log").read_text()
    assert "lost" not in log
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    assert "started again" not in said
    assert summary(tmp_path)["wall_s"] < DAY_S / 2


# -------------------------------------------------------------------------------------------------------------- disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 24 MiB of room."""
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "small"
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=24m") != 0:
        pytest.skip(f"a small disk cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(str(folder).encode(), 2)  # MNT_DETACH: whatever is open there


def steps_of(run_dir: Path) -> int:
    """As the learner says: it cannot write it down."""
    found = re.search(r"listens on (127\.0\.0\.1:\d+)", (run_dir / "logs" / "learner.log").read_text())
    assert found is not None
    with rpc.open_channel(found[1]) as channel:
        client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Learner"], "the learner")
        info = client.unary("Info", pb.LearnerInfoRequest(), pb.LearnerInfoReply, DEADLINE_S)
    return int(info.figures["env_steps"])


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").glob("[0-9]*") if (path / "meta.json").exists())


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):  # it is full
                while file.write(bytes(size)):
                    pass


def test_a_full_disk_costs_checkpoints_and_nothing_else(train: Train, tmp_path: Path, small_disk: Path) -> None:
    run = train(*PPO, run="small/run")
    folder = small_disk / "run"
    wait_until(lambda: bool(checkpoints(folder)) and env_steps(small_disk) > 1000, run, "a checkpoint")
    alive = pids(tmp_path)
    fill(small_disk / "filler")
    newest, at = checkpoints(folder)[-1], steps_of(folder)
    wait_until(lambda: steps_of(folder) > at + 8000, run, "four checkpoints that cannot be written")
    assert checkpoints(folder)[-1] <= f"{at + 2000:012d}", "one may have had its room already"
    assert newest in checkpoints(folder)
    (small_disk / "filler").unlink()
    wait_until(lambda: checkpoints(folder)[-1] > f"{at + 8000:012d}", run, "a checkpoint when there is room")
    assert pids(tmp_path) == alive, "all are the first ones"
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    assert "started again" not in said
