"""What the machine does to a run: the clock jumps, the disk is full. Needs root, to mount a disk, and a C compiler."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import rpc
from protos import learner_pb2 as pb
from tests.e2e.runs import (
    DEADLINE_S,
    ENDLESS_DQN,
    ENDLESS_PPO,
    Train,
    env_steps,
    finish,
    pids,
    records,
    summary,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.namespaces]
DAY_S = 86_400


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
    clock = Clock(tmp_path, monkeypatch)
    yield clock
    clock.close()


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_clock_that_jumps_is_not_noticed(train: Train, tmp_path: Path, clock: Clock, algorithm: str) -> None:
    run = train(*(ENDLESS_PPO if algorithm == "ppo" else ENDLESS_DQN))
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
    mounted = libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=24m")
    assert mounted == 0, f"a small disk cannot be mounted here: {os.strerror(ctypes.get_errno())}"
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
    run = train(*ENDLESS_PPO, run="small/run")
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
