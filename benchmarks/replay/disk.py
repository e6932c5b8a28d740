"""A table on disk: what inserts reach beside one in memory and beside the bare disk, and how long a restart takes."""

from __future__ import annotations

import mmap
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.replay.drive import INSERT_WINDOW, RECEIVE_TIMEOUT_S, Inserts
from benchmarks.replay.measures import Figures, Usage, resident_mb
from benchmarks.replay.server import BATCH, make_table, running, sampler, scratch, start, unroll, writer
from benchmarks.replay.shapes import KINDS, nbytes
from core import rpc

CAPACITY = 1 << 17
"""Steps of the Atari table whose inserts are measured: 0.9 GB."""
SYNC_EVERY_S = 10.0
"""The server's default time between two manifests."""
RESTARTS = 4


def measure_insert(disk: Path | None, seconds: float) -> Figures:
    """Atari steps/s into a table that has wrapped once; `disk` None: its files are in memory."""
    kind = KINDS["atari"]
    with scratch(disk) as folder, running(folder / "data") as server, server.channel() as channel:
        make_table(channel, kind, capacity=CAPACITY)
        stream = writer(channel, window=INSERT_WINDOW)
        inserts = Inserts(stream, unroll(kind, kind.rows, kind.envs), INSERT_WINDOW)
        inserts.fill(CAPACITY + CAPACITY // 8)
        usage = Usage(server.pid)
        took_s = inserts.run(seconds)
        figures = inserts.figures(took_s) | usage.figures()
        stream.close()
        return figures


def measure_disk(disk: Path, seconds: float) -> Figures:
    """The same unrolls into a bare file of that size, round and round, mapped and then with pwrite: the faster one.

    Every SYNC_EVERY_S, and at the end, all must be on the disk.
    """
    kind = KINDS["atari"]
    columns = unroll(kind, kind.rows, kind.envs)
    data = b"".join(column.tobytes() for column in columns.values())
    block = memoryview(data + bytes(-len(data) % mmap.PAGESIZE))
    blocks, steps = CAPACITY // (kind.rows * kind.envs), kind.rows * kind.envs
    with scratch(disk) as folder:
        file = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        try:
            os.posix_fallocate(file, 0, blocks * len(block))
            mapped = _mapped_per_s(file, block, blocks, seconds / 2)
            written = _written_per_s(file, block, blocks, seconds / 2)
        finally:
            os.close(file)
    per_s = max(mapped, written)
    return {
        "per_s": per_s * steps,
        "gb_per_s": per_s * nbytes(columns) / 1e9,
        "mapped_per_s": mapped * steps,
        "pwrite_per_s": written * steps,
    }


def _mapped_per_s(file: int, block: memoryview, blocks: int, seconds: float) -> float:
    with mmap.mmap(file, blocks * len(block)) as memory:

        def put(index: int) -> None:
            memory[index * len(block) : (index + 1) * len(block)] = block

        for index in range(blocks):  # wrapped once
            put(index)
        memory.flush()
        return _loop(put, memory.flush, blocks, seconds)


def _written_per_s(file: int, block: memoryview, blocks: int, seconds: float) -> float:
    return _loop(lambda index: os.pwrite(file, block, index * len(block)), lambda: os.fdatasync(file), blocks, seconds)


def _loop(put: Callable[[int], object], sync: Callable[[], object], blocks: int, seconds: float) -> float:
    """Blocks/s, the last sync among them."""
    done, took_s = 0, 0.0
    start_s = synced_s = time.perf_counter()
    while took_s < seconds:
        put(done % blocks)
        done += 1
        if time.perf_counter() - synced_s > SYNC_EVERY_S:
            sync()
            synced_s = time.perf_counter()
        took_s = time.perf_counter() - start_s
    sync()
    return done / (time.perf_counter() - start_s)


def measure_restart(disk: Path, steps: int) -> Figures:
    """Seconds from the command to the first batch of an Atari table of `steps` that is on disk and in the page cache.

    Every other time the server was killed, not stopped. `restart_s` is the median of the worse kind.
    """
    kind = KINDS["atari"]
    with scratch(disk) as folder:
        server = start(folder, folder / "data")
        filled_s = time.perf_counter()
        try:
            with server.channel() as channel:
                make_table(channel, kind, capacity=steps)
                stream = writer(channel, window=INSERT_WINDOW)
                Inserts(stream, unroll(kind, kind.rows, kind.envs), INSERT_WINDOW).fill(steps)
                stream.close()
            filled_s = time.perf_counter() - filled_s
            took_s: dict[signal.Signals, list[float]] = {signal.SIGTERM: [], signal.SIGKILL: []}
            figures = Figures()
            for restart in range(RESTARTS):
                signum = (signal.SIGTERM, signal.SIGKILL)[restart % 2]
                server.stop(signum)
                server = start(folder, folder / "data")
                items = _first_items(server.address)
                took_s[signum].append(time.perf_counter() - server.started_s)
                memory = resident_mb(server.pid)
                figures |= {"items": items}
                if memory is not None:
                    figures |= {"server_rss_mb": memory[0], "server_own_mb": memory[1]}
        finally:
            server.stop()
    stopped_s, killed_s = (statistics.median(took_s[signum]) for signum in (signal.SIGTERM, signal.SIGKILL))
    return figures | {
        "restart_s": max(stopped_s, killed_s),
        "after_stop_s": stopped_s,
        "after_kill_s": killed_s,
        "fill_s": filled_s,
        "steps": steps,
    }


def _first_items(address: str) -> int:
    """Items in the table, as the first batch tells."""
    with rpc.open_channel(address) as channel:
        stream = sampler(channel)
        stream.request(1, BATCH)
        reply = stream.receive(RECEIVE_TIMEOUT_S)
        while reply.keys is None:
            reply = stream.receive(RECEIVE_TIMEOUT_S)
        stream.close()
    return reply.items
