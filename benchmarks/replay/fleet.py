"""Many small writers: 8 at full speed in processes of their own, and 256 simulated ones in a few processes.

A simulated actor is a stream over a connection of its own, without a thread: the messages are those of
core/stream.py, written here on asyncio, so that the clients cost the machine little.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc.aio

from benchmarks.replay.crowd import together
from benchmarks.replay.drive import Inserts
from benchmarks.replay.measures import Figures, latencies, rates
from benchmarks.replay.server import TABLE, make_table, running, unroll, writer
from benchmarks.replay.shapes import KINDS, SIZES, SMALL_WINDOW, SMALL_WRITERS, nbytes
from core import rpc, wire
from core.framing import frame
from protos import experience_pb2 as pb

ACTORS, PROCESSES = 256, 4
WINDOW = 4
"""Unacknowledged messages of an actor at saturation."""
LOAD = 0.5
"""Of saturation."""
METHOD = "/shoal.v1.Experience/Insert"
Measured = tuple[float, list[int], list[float]]
"""Seconds, acknowledged messages by actor, seconds from when a message was due to its ack."""


def measure_small(size: tuple[int, int], seconds: float) -> Figures:
    """Unrolls/s of 8 writers together."""
    kind = KINDS["cartpole"]
    with running() as server:
        with server.channel() as channel:
            make_table(channel, kind, size=size, capacity=1 << 17, writers=SMALL_WRITERS)
        jobs = [(_write, (server.address, slot, size, seconds)) for slot in range(SMALL_WRITERS)]
        results, usage = together(jobs, server.pid)
    took_s = max(took_s for took_s, _, _ in results)
    sent = sum(sent for _, sent, _ in results)
    waited_s = [w for _, _, waits_s in results for w in waits_s]
    return rates(sent, sent * nbytes(unroll(kind, *size)), took_s, waited_s) | usage


def _write(
    ready: Callable[[], None], address: str, slot: int, size: tuple[int, int], seconds: float
) -> tuple[float, int, list[float]]:
    columns = unroll(KINDS["cartpole"], *size)
    with rpc.open_channel(address) as channel:
        stream = writer(channel, slot, window=SMALL_WINDOW)
        inserts = Inserts(stream, columns, SMALL_WINDOW, slot)
        inserts.fill(columns["reward"].size)
        ready()
        took_s = inserts.run(seconds)
        stream.close()
    return took_s, inserts.sent, inserts.waited_s


def measure_fleet(seconds: float) -> Figures:
    """256 actors: what they reach together at full speed; and how long acks take at half of that."""
    size = SIZES["small-16x8"]
    with running() as server:
        with server.channel() as channel:
            make_table(channel, KINDS["cartpole"], size=size, writers=ACTORS)
        full, _ = _crowd(server.address, server.pid, seconds, 0.0)
        full_per_s = sum(full[1]) / full[0]
        half, usage = _crowd(server.address, server.pid, seconds, full_per_s * LOAD / ACTORS)
    return {
        "per_s": sum(half[1]) / half[0],
        "gb_per_s": sum(half[1]) / half[0] * nbytes(unroll(KINDS["cartpole"], *size)) / 1e9,
        **latencies(half[2]),
        "slowest_share": slowest_share(half[1]),
        "saturation_per_s": full_per_s,
        "saturation_p99_ms": latencies(full[2])["p99_ms"],
        "saturation_slowest_share": slowest_share(full[1]),
        **usage,
    }


def slowest_share(counts: list[int]) -> float:
    """The least of all, as a share of the median."""
    middle = statistics.median(counts)
    return min(counts) / middle if middle else 0.0


def _crowd(address: str, pid: int, seconds: float, per_actor_s: float) -> tuple[Measured, Figures]:
    each = ACTORS // PROCESSES
    jobs = [(_act, (address, first, each, seconds, per_actor_s)) for first in range(0, ACTORS, each)]
    results, usage = together(jobs, pid)
    took_s = max(took_s for took_s, _, _ in results)
    counts = [n for _, sent, _ in results for n in sent]
    return (took_s, counts, [w for _, _, waits_s in results for w in waits_s]), usage


def _act(
    ready: Callable[[], None], address: str, first: int, count: int, seconds: float, per_actor_s: float
) -> Measured:
    return asyncio.run(_act_all(ready, address, first, count, seconds, per_actor_s))


async def _act_all(
    ready: Callable[[], None], address: str, first: int, count: int, seconds: float, per_actor_s: float
) -> Measured:
    payload = wire.encode(unroll(KINDS["cartpole"], *SIZES["small-16x8"]))
    actors = [_Actor(address, slot, payload) for slot in range(first, first + count)]
    await asyncio.gather(*(actor.connect() for actor in actors))
    await asyncio.to_thread(ready)
    start_s = time.perf_counter()
    end_s = start_s + seconds
    if per_actor_s:
        # the first messages of all 256 are spread over one interval, as those of real actors are
        firsts_s = [start_s + (slot + 0.5) / ACTORS / per_actor_s for slot in range(first, first + count)]
        runs = (actor.run(at, end_s, 1 / per_actor_s) for actor, at in zip(actors, firsts_s, strict=True))
        await asyncio.gather(*runs)
    else:
        await asyncio.gather(*(actor.run_flat_out(end_s) for actor in actors))
    took_s = time.perf_counter() - start_s
    await asyncio.gather(*(actor.close() for actor in actors))
    return took_s, [len(actor.waited_s) for actor in actors], [w for actor in actors for w in actor.waited_s]


class _Actor:
    """One stream; sends an unroll when it is due and waits for its ack."""

    def __init__(self, address: str, slot: int, payload: bytes) -> None:
        self._channel: Any = grpc.aio.insecure_channel(address, rpc.options(64 << 20, 10.0))
        self._slot, self._payload, self._seq = slot, payload, 0
        self._call: Any = None
        self.waited_s: list[float] = []

    async def connect(self) -> None:
        """Open the stream."""
        reply = pb.InsertReply.FromString
        self._call = self._channel.stream_stream(METHOD, response_deserializer=reply)()
        opening = pb.InsertOpen(
            protocol=rpc.PROTOCOL, table=TABLE, slot=self._slot, incarnation=1 + secrets.randbits(62)
        )
        await self._call.write(pb.InsertRequest(open=opening).SerializeToString())
        opened = await self._call.read()
        self._seq = opened.opened.next_seq - 1

    async def run(self, due_s: float, end_s: float, every_s: float) -> None:
        """A message `every_s` until `end_s`; one that is late is waited for from when it was due."""
        while due_s < end_s:
            early_s = due_s - time.perf_counter()
            if early_s > 0:
                await asyncio.sleep(early_s)
            await self._call.write(self._message())
            while (await self._call.read()).ack < self._seq:
                pass
            self.waited_s.append(time.perf_counter() - due_s)
            due_s += every_s

    async def run_flat_out(self, end_s: float) -> None:
        """As many as are acknowledged until `end_s`, WINDOW of them under way."""
        sent_s: deque[float] = deque()
        while time.perf_counter() < end_s:
            while len(sent_s) < WINDOW:
                sent_s.append(time.perf_counter())
                await self._call.write(self._message())
            acked = (await self._call.read()).ack
            now_s = time.perf_counter()
            while self._seq - len(sent_s) < acked:  # the oldest seq under way is _seq - len + 1
                self.waited_s.append(now_s - sent_s.popleft())

    def _message(self) -> bytes:
        self._seq += 1
        header = pb.UnrollHeader(slot=self._slot, env_steps=128)
        size = len(self._payload)
        chunk = pb.Chunk(seq=self._seq, part=0, parts=1, header=header, payload_bytes=size)
        return frame(pb.InsertRequest(chunks=[chunk]), [self._payload])

    async def close(self) -> None:
        """End this life."""
        await self._call.write(pb.InsertRequest(over=True).SerializeToString())
        await self._call.done_writing()
        await self._channel.close()
