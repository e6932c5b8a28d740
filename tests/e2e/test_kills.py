"""`kill -9` of the replay server at random moments under load: nothing acknowledged is missing, nothing is twice.

25 times in the suite; `make kill-replay` does it 500 times (`--kills`).
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core import rpc
from replay_server.verify import run as verify
from tests.conftest import Threads
from tests.e2e.killing import CAPACITY, WRITERS, Abreast, Victim, Writer, check_files, draw_until
from tests.services.serving import wait_until

SHM = Path("/dev/shm")


@pytest.fixture(params=["disk", pytest.param("memory", marks=pytest.mark.long)])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victim]:
    """On a disk, with a manifest 20 times a second; and in memory."""
    with tempfile.TemporaryDirectory(dir=tmp_path if request.param == "disk" else SHM) as data:
        victim = Victim(tmp_path, Path(data))
        yield victim
        victim.end(kill=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_kill_loses_or_doubles_what_was_acknowledged(
    victim: Victim, threads: Threads, rng: np.random.Generator, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills, stop = -(-int(request.config.getoption("kills")) // 2), threading.Event()
    threads.timeout_s = 60.0
    by_reference = not victim.data.is_relative_to(tmp_path)
    victim.start()
    with rpc.open_channel(victim.address) as channel:
        victim.make_table(channel)
        generators, abreast = rng.spawn(WRITERS), Abreast(WRITERS, most_ahead=20)
        writers = [Writer(channel, slot, own, abreast) for slot, own in enumerate(generators)]
        try:
            for writer in writers:
                threads.start(writer.run, stop)
            draws = threads.start(draw_until, stop, channel, by_reference)
            for _ in range(kills):
                kill_once(victim, writers, rng)
                check_files(victim.data, tmp_path / "copy", writers)
                victim.start()
            stop.set()
            threads.join()
        finally:
            stop.set()
            for writer in writers:
                writer.stream.cancel()
        assert draws.result(0) > kills
    assert victim.end(kill=False) == 0, victim.log()
    assert [writer.acked for writer in writers] == [writer.life.seq for writer in writers]
    assert check_files(victim.data, tmp_path / "copy", writers) > CAPACITY // 2
    for writer in writers:
        assert (writer.stream.lost_rows, writer.stream._open.incarnation) == (0, writer.life.incarnation)
    assert verify(victim.data)[1] == 0


def kill_once(victim: Victim, writers: list[Writer], rng: np.random.Generator) -> None:
    """After some more acks, or once in five times before it has even read its tables."""
    if rng.random() < 0.2:
        victim.end(kill=True)
        victim.start(said="tables")
    else:
        target = sum(writer.acked for writer in writers) + int(rng.integers(0, 400))
        wait_until(lambda: sum(writer.acked for writer in writers) >= target, "acks")
    victim.end(kill=True)
