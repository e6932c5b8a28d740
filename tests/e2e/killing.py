"""A replay server in a process that is killed again and again, who writes to it and who draws from it meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from core import rpc
from core.errors import DeadlineError
from core.sampling import SampleStream
from core.stream import InsertStream
from core.types import Array
from protos import experience_pb2 as pb
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from shoal.processes import HOME
from tests.services.serving import wait_until
from tests.unit.counting import STRIDE, CountingLife, signature

T, ENVS, BEFORE, AFTER, WRITERS, CAPACITY = 6, 3, 1, 2, 3, 6000
DEADLINE_S, PATIENCE_S = 30.0, 120.0
DEFINITION = ReplayDefinition(
    name="t",
    signature=signature(T, ENVS),
    capacity=CAPACITY,
    batch_size=32,
    max_batches=2,
    min_size=100,
    samples_per_insert=0.0,
    before=BEFORE,
    after=AFTER,
    writers=WRITERS,
    sampler="prioritised",
)


class Victim:
    """`shoal replay`, always of the same folder and at the same address."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.data, self._folder, self._log = data, folder, folder / "log"
        self.address = f"unix:{folder / 's'}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, said: str = "listens on") -> None:
        """Begin a life and return when it said that."""
        command = [sys.executable, "-m", "shoal", "replay", "--listen", self.address, "--data-dir", str(self.data)]
        if self.data.is_relative_to(self._folder):  # on a disk
            command += ["--manifest-every", "0.05"]
        with self._log.open("wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(HOME)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_until(lambda: said in self.log() or self._process_ended(), said)
        assert not self._process_ended(), self.log()

    def log(self) -> str:
        return self._log.read_text()

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def end(self, *, kill: bool) -> int:
        """By SIGKILL, or in order."""
        assert self._process is not None
        (self._process.kill if kill else self._process.terminate)()
        return self._process.wait(DEADLINE_S)

    def make_table(self, channel: rpc.Channel) -> None:
        client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], "the replay server")
        table = pb.TableDefinition(name=DEFINITION.name, settings=DEFINITION.pack())
        request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table)
        assert client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S).created


class Abreast:
    """Keeps writers together: a life that falls back by a whole ring loses the past of its next windows."""

    def __init__(self, writers: int, most_ahead: int) -> None:
        self._sent, self._most_ahead, self._changed = [0] * writers, most_ahead, threading.Condition()

    def sent(self, slot: int, stop: threading.Event) -> None:
        """It has sent one more; return when the others are not too far behind."""
        with self._changed:
            self._sent[slot] += 1
            self._changed.notify_all()
            while not (stop.is_set() or self._sent[slot] - min(self._sent) < self._most_ahead):
                self._changed.wait(0.1)


class Writer:
    """Numbered rows of one life; remembers what it sent, and knows what was acknowledged."""

    def __init__(self, channel: rpc.Channel, slot: int, rng: np.random.Generator, abreast: Abreast) -> None:
        self._abreast = abreast
        self.life = CountingLife(slot, slot + 1, ENVS, rng, end=0.1)
        self.stream = InsertStream(
            channel, "the replay server", "t", slot, slot + 1, window=4, max_chunk_bytes=256, patience_s=PATIENCE_S
        )
        self._valid: list[Array] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            columns = self.life.unroll(T)
            self._valid.append(columns["valid"])
            self.stream.insert(self.life.header(columns), columns, PATIENCE_S)
            self._abreast.sent(self.life.slot, stop)
        self.stream.flush(PATIENCE_S)

    @property
    def acked(self) -> int:
        """The last seq that is known to be in the table."""
        with self.stream._changed:
            return self.stream._seq - len(self.stream._unacked)

    def due(self, seq: int) -> Array:
        """Numbers of the items that its first `seq` unrolls make, ascending."""
        rows = max(0, seq * T - AFTER + 1)
        valid = np.concatenate([np.zeros((0, ENVS), np.uint8), *self._valid[:seq]])[:rows]
        row, env = np.nonzero(valid)
        return np.sort(self.life.base[env] + row)

    def owns(self, numbers: Array) -> Array:
        """Which of the numbers are its."""
        mine: Array = (numbers >= self.life.base[0]) & (numbers < self.life.base[-1] + STRIDE)
        return mine


def draw_until(stop: threading.Event, channel: rpc.Channel, by_reference: bool) -> int:
    """Draw, look at every window, and set priorities, as a learner would. Returns how many draws came."""
    stream = SampleStream(channel, "the replay server", "t", 5, by_reference=by_reference, patience_s=PATIENCE_S)
    draws, priorities = 0, None
    while not stop.is_set():
        stream.request(2, priorities=priorities)
        priorities = None
        while priorities is None and not stop.is_set():
            try:
                reply = stream.receive(0.1)
            except DeadlineError:
                continue
            if reply.keys is not None and reply.columns is not None:
                check_windows(reply.columns)
                priorities = reply.keys, np.ones(len(reply.keys), np.float32)
                draws += 1
    stream.close()
    return draws


def check_windows(columns: dict[str, Array]) -> Array:
    """Every row must be the one that was sent; returns the items' numbers."""
    numbers: Array = columns["reward"][BEFORE]
    first = numbers // STRIDE * STRIDE
    rows = numbers + np.arange(-BEFORE, AFTER + 1)[:, None]
    np.testing.assert_array_equal(columns["obs"][..., 0], np.maximum(rows, first))
    np.testing.assert_array_equal(columns["reward"], np.where(rows[:-1] >= first, rows[:-1], 0))
    return numbers


def check_files(data: Path, copy: Path, writers: list[Writer]) -> int:
    """In the files as a kill left them nothing acknowledged is missing and nothing is twice; returns the items."""
    acked = [writer.acked for writer in writers]
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    data_dir = DataDir(copy, durable=False)
    table = ReplayTable.reopen(data_dir, "t")
    ring = table.ring
    keys: Array = np.arange(ring.tail, ring.head)
    numbers = check_windows(ring.gather(keys[ring.alive(keys)]))
    assert len(np.unique(numbers)) == len(numbers)
    inserted = 0
    for writer, at_least in zip(writers, acked, strict=True):
        seq = table.next_seq(writer.life.slot, writer.life.incarnation) - 1
        assert at_least <= seq <= writer.life.seq
        due = writer.due(seq)
        inserted += len(due)
        for base in writer.life.base:
            mine = due[(due >= base) & (due < base + STRIDE)]
            found = np.sort(numbers[(numbers >= base) & (numbers < base + STRIDE)])
            np.testing.assert_array_equal(found, mine[len(mine) - len(found) :])  # the newest, without a hole
    assert all(np.any([writer.owns(numbers) for writer in writers], 0))
    assert (table.inserted, ring.inserted) == (inserted, inserted)
    data_dir.close()
    return len(numbers)
