"""The real replay server in a process of its own, its tables, and the two streams to it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.replay.shapes import SCALARS, Columns, Kind
from benchmarks.running import ROOT
from core import rpc
from core.sampling import SampleStream
from core.specs import ArraySpec, ColumnSpec, Signature
from core.stream import InsertStream
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition

TABLE, PEER, BATCH = "bench", "the replay server", 256
START_TIMEOUT_S = 60.0
SHM = Path("/dev/shm")


@dataclass
class Server:
    """A started `shoal replay`. `started_s` is on time.perf_counter's clock."""

    process: subprocess.Popen[str]
    address: str
    started_s: float

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        return self.process.pid

    def stop(self, signum: signal.Signals = signal.SIGTERM, timeout_s: float = 60.0) -> None:
        """End it and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def channel(self) -> rpc.Channel:
        """A new one."""
        return rpc.open_channel(self.address)


def start(folder: Path, data_dir: Path | str) -> Server:
    """Start a server with a socket in `folder`. Raises RuntimeError where it does not listen."""
    address, started_s = folder / f"s{time.monotonic_ns() % 10**9}", time.perf_counter()
    command = [sys.executable, "-m", "shoal", "replay", "--listen", "127.0.0.1:0", "--socket", str(address)]
    process = subprocess.Popen([*command, "--data-dir", str(data_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server = Server(process, f"unix:{address}", started_s)
    if process.stdout is None or not _listens(process.stdout.fileno()):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)  # it closes its output a moment before it ends
        code = process.poll()
        server.stop(signal.SIGKILL)
        how = f"was still silent after {START_TIMEOUT_S:g} s" if code is None else f"ended with exit code {code}"
        raise RuntimeError(f"the replay server {how}: the output of this run has its last words")
    return server


def _listens(stdout: int) -> bool:
    deadline_s, said = time.monotonic() + START_TIMEOUT_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while b"listens on" not in said and selector.select(max(0.0, deadline_s - time.monotonic())):
            read = os.read(stdout, 1 << 12)
            if not read:
                return False
            said += read
    return b"listens on" in said


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in `parent`, or in memory where there is a tmpfs for it; removed afterwards."""
    if parent is None and os.access(SHM, os.W_OK):
        parent = SHM
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def running(data_dir: Path | str | None = None) -> Iterator[Server]:
    """A server for one measurement, its tables in `data_dir` (None: files in memory)."""
    with scratch() as folder:
        server = start(folder, folder / "data" if data_dir is None else data_dir)
        try:
            yield server
        finally:
            server.stop()


def unroll(kind: Kind, rows: int, envs: int) -> Columns:
    """What an actor would send."""
    return kind.columns(rows, envs) | {"valid": np.ones((rows, envs), np.uint8)}


def signature(kind: Kind, rows: int, envs: int) -> Signature:
    """Of `unroll`."""
    columns = {"obs": ColumnSpec(ArraySpec(kind.shape, kind.dtype), 1)}
    for name, dtype in [*SCALARS.items(), ("valid", "uint8")]:
        columns[name] = ColumnSpec(ArraySpec((), dtype))
    return Signature(columns, rows, envs)


def make_table(
    channel: rpc.Channel,
    kind: Kind,
    *,
    size: tuple[int, int] | None = None,
    capacity: int | None = None,
    sampler: Literal["uniform", "prioritised"] = "uniform",
    samples_per_insert: float = 0.0,
    writers: int = 1,
) -> None:
    """A table for unrolls of at most `size`. Raises ShoalError where the server refuses it."""
    definition = ReplayDefinition(
        name=TABLE,
        signature=signature(kind, *(size or (kind.rows, kind.envs))),
        capacity=capacity or kind.capacity,
        batch_size=BATCH,
        max_batches=1,
        min_size=1000,
        samples_per_insert=samples_per_insert,
        before=kind.before,
        after=1,
        writers=writers,
        sampler=sampler,
    )
    table = pb.TableDefinition(name=TABLE, settings=definition.pack())
    client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], PEER)
    request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table)
    client.unary("EnsureTable", request, pb.EnsureTableReply, 120.0, wait=True)


def writer(channel: rpc.Channel, slot: int = 0, *, window: int) -> InsertStream:
    """A new life."""
    return InsertStream(channel, PEER, TABLE, slot, 1 + time.time_ns() % (1 << 62), window=window)


def sampler(channel: rpc.Channel, *, by_reference: bool = False) -> SampleStream:
    """A learner's."""
    return SampleStream(channel, PEER, TABLE, seed=1, by_reference=by_reference)
