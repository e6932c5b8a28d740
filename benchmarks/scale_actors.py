"""Simulated actors: real connections, joins, weight streams and inserts on asyncio, without environments.

The messages are those of actors/main.py and core/stream.py, written here so that a thousand cost the machine little.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc.aio

from core import rpc
from core.framing import frame
from protos import experience_pb2, learner_pb2

JOIN, WEIGHTS = "/shoal.v1.Learner/Join", "/shoal.v1.Learner/Weights"
INSERT = "/shoal.v1.Experience/Insert"
WINDOW = 2
"""Unacknowledged unrolls of an actor: network.window_chunks."""
JOIN_TIMEOUT_S, ACK_TIMEOUT_S = 60.0, 30.0
AT_ONCE = 32
"""Joins of one process under way."""


class Canned(NamedTuple):
    """An encoded unroll, the same each time."""

    payload: bytes
    env_steps: int


class Did(NamedTuple):
    """What the actors of one process did between two moments of time.perf_counter, which all processes share."""

    start_s: float
    end_s: float
    connect_s: float
    unrolls: int
    weights: int
    weights_bytes: int


class Actor:
    """One actor: a connection for the learner's calls and one for its inserts, as a real one has."""

    def __init__(self, address: str, table: str, slot: int | None, canned: Canned | None) -> None:
        self._address, self._table, self._canned = address, table, canned
        self._channels: list[Any] = []  # grpc-stubs want arguments that have defaults
        self._slot, self._incarnation, self._learner = slot, 1 + secrets.randbits(62), 0
        self._seq = 0
        self._insert: Any = None
        self._subscription: Any = None
        self.unrolls = self.weights = self.weights_bytes = 0

    def _channel(self) -> Any:
        self._channels.append(grpc.aio.insecure_channel(self._address, rpc.options(-1, 10.0)))
        return self._channels[-1]

    async def connect(self) -> None:
        """Take a seat and subscribe, unless the slot was given (of a replay server), and open the insert stream."""
        if self._slot is None:
            await self._join()
        if self._canned is None:
            return
        reply = experience_pb2.InsertReply.FromString
        self._insert = self._channel().stream_stream(INSERT, response_deserializer=reply)(wait_for_ready=True)
        opening = experience_pb2.InsertOpen(
            protocol=rpc.PROTOCOL,
            table=self._table,
            slot=self._slot,
            incarnation=self._incarnation,
            learner=self._learner,
        )
        await self._insert.write(experience_pb2.InsertRequest(open=opening).SerializeToString())
        self._seq = (await self._insert.read()).opened.next_seq - 1

    async def _join(self) -> None:
        channel = self._channel()
        join = channel.unary_unary(JOIN, rpc.serialize, learner_pb2.JoinReply.FromString)
        asking = learner_pb2.JoinRequest(
            protocol=rpc.PROTOCOL, incarnation=self._incarnation, host="simulated", pid=os.getpid()
        )
        joined = await join(asking, timeout=JOIN_TIMEOUT_S, wait_for_ready=True)
        self._slot, self._learner = joined.slot, joined.learner_incarnation
        subscribing = learner_pb2.WeightsRequest(
            protocol=rpc.PROTOCOL, incarnation=self._incarnation, slot=joined.slot, from_version=0
        )
        self._subscription = channel.unary_stream(WEIGHTS, rpc.serialize)(subscribing)
        await self._subscription.initial_metadata()

    async def read_weights(self) -> None:
        """Count them, until cancelled; they stay bytes."""
        if self._subscription is None:
            return
        async for message in self._subscription:
            self.weights += 1
            self.weights_bytes += len(message)

    async def insert_flat_out(self, end_s: float) -> None:
        """As many unrolls as are acknowledged until `end_s`, WINDOW of them under way."""
        acked = self._seq
        while self._canned is not None and time.perf_counter() < end_s:
            while self._seq - acked < WINDOW:
                await self._insert.write(self._message(self._canned))
            now_acked = (await asyncio.wait_for(self._insert.read(), ACK_TIMEOUT_S)).ack
            self.unrolls += now_acked - acked
            acked = now_acked

    def _message(self, canned: Canned) -> bytes:
        self._seq += 1
        header = experience_pb2.UnrollHeader(slot=self._slot, env_steps=canned.env_steps)
        size = len(canned.payload)
        chunk = experience_pb2.Chunk(seq=self._seq, part=0, parts=1, header=header, payload_bytes=size)
        return frame(experience_pb2.InsertRequest(chunks=[chunk]), [canned.payload])

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels:
            await channel.close()


def act(
    ready: Callable[[], None],
    addresses: list[str],
    table: str,
    slots: list[int | None],
    canned: Canned | None,
    seconds: float,
) -> Did:
    """A process of actors, one a slot (None: join a learner), over the addresses in turn. For crowd.together."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    actors = [Actor(addresses[i % len(addresses)], table, slot, canned) for i, slot in enumerate(slots)]
    return asyncio.run(_act(ready, actors, seconds))


async def _act(ready: Callable[[], None], actors: list[Actor], seconds: float) -> Did:
    begun_s, gate = time.perf_counter(), asyncio.Semaphore(AT_ONCE)
    readers: list[asyncio.Task[None]] = []

    async def connect(actor: Actor) -> None:
        async with gate:
            await actor.connect()
            readers.append(asyncio.create_task(actor.read_weights()))

    await asyncio.gather(*(connect(actor) for actor in actors))
    connect_s = time.perf_counter() - begun_s
    await asyncio.to_thread(ready)
    start_s, before = time.perf_counter(), _counts(actors)
    await asyncio.gather(asyncio.sleep(seconds), *(actor.insert_flat_out(start_s + seconds) for actor in actors))
    end_s, after = time.perf_counter(), _counts(actors)
    did = Did(start_s, end_s, connect_s, *(late - early for late, early in zip(after, before, strict=True)))
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await asyncio.gather(*(actor.close() for actor in actors))
    return did


def _counts(actors: list[Actor]) -> tuple[int, int, int]:
    """Unrolls, weights and their bytes of all of them so far."""
    return (
        sum(actor.unrolls for actor in actors),
        sum(actor.weights for actor in actors),
        sum(actor.weights_bytes for actor in actors),
    )
