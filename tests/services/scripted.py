"""An Experience server that does what the test says, and insert streams to it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from core import errors, rpc_server
from core.clock import Clock
from core.framing import unframe
from core.stream import InsertStream
from core.types import UnrollHeader
from protos import experience_pb2 as pb
from tests.services.serving import DEADLINE_S, Serving

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
SLOT, INCARNATION = 3, 77


class Received(NamedTuple):
    """The opening, or one chunk with its bytes."""

    open: pb.InsertOpen | None
    chunk: pb.Chunk
    payload: bytes
    message: int


class Connection:
    """One Insert call as the test's thread sees it."""

    def __init__(self) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[pb.InsertReply | errors.ShoalError | None] = asyncio.Queue()
        self.over = threading.Event()
        self.over_said = threading.Event()

    def send(self, reply: pb.InsertReply | errors.ShoalError | None) -> None:
        """A reply; an error or None ends the call."""
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, reply)

    def expects(self, next_seq: int, epoch: int = 5, *, staged: bool = False) -> pb.InsertOpen:
        """Answer `open`, which is returned."""
        opened = self.received.get(timeout=DEADLINE_S).open
        assert opened is not None
        self.send(pb.InsertReply(opened=pb.InsertOpened(next_seq=next_seq, table_epoch=epoch, staged=staged)))
        return opened

    def ack(self, seq: int) -> None:
        """Acknowledge."""
        self.send(pb.InsertReply(ack=seq))

    def seqs(self, n: int) -> list[int]:
        """The seqs of the next `n` chunks."""
        return [self.received.get(timeout=DEADLINE_S).chunk.seq for _ in range(n)]

    async def serve(self, requests: AsyncIterator[bytes]) -> AsyncIterator[pb.InsertReply]:
        """Runs on the loop."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (reply := await self._outgoing.get()) is not None:
                if isinstance(reply, errors.ShoalError):
                    raise reply
                yield reply
        finally:
            reader.cancel()
            self.over.set()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        number = 0
        async for data in requests:
            message, payload = unframe(pb.InsertRequest, data)
            if message.HasField("open"):
                self.received.put(Received(message.open, pb.Chunk(), b"", number))
            if message.over:
                self.over_said.set()
                self._outgoing.put_nowait(None)  # as the real one ends the call
            at = 0
            for chunk in message.chunks:
                self.received.put(Received(None, chunk, bytes(payload[at : at + chunk.payload_bytes]), number))
                at += chunk.payload_bytes
            assert at == len(payload)
            number += 1


class Scripted:
    """An Experience service whose Insert calls are handed to the test."""

    def __init__(self) -> None:
        self._connections: queue.Queue[Connection] = queue.Queue()

    def next(self) -> Connection:
        """The next Insert call."""
        return self._connections.get(timeout=DEADLINE_S)

    @rpc_server.framed
    async def Insert(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[pb.InsertReply]:
        connection = Connection()
        self._connections.put(connection)
        async for reply in connection.serve(requests):
            yield reply

    async def Sample(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[pb.SampleReply]:
        yield pb.SampleReply()

    async def EnsureTable(self, request: Any, context: Any) -> pb.EnsureTableReply:
        return pb.EnsureTableReply()

    async def DropTable(self, request: Any, context: Any) -> pb.DropTableReply:
        return pb.DropTableReply()

    async def Info(self, request: Any, context: Any) -> pb.InfoReply:
        return pb.InfoReply()

    async def Checkpoint(self, request: Any, context: Any) -> pb.CheckpointReply:
        return pb.CheckpointReply()

    async def Rollback(self, request: Any, context: Any) -> pb.RollbackReply:
        return pb.RollbackReply()


@pytest.fixture
def server(serving: Serving) -> Scripted:
    scripted = Scripted()
    serving.start(EXPERIENCE, scripted)
    return scripted


Open = Callable[..., InsertStream]


@pytest.fixture
def open_stream(serving: Serving) -> Iterator[Open]:
    streams: list[InsertStream] = []

    def open_one(
        *, window: int = 3, max_chunk_bytes: int = 1 << 20, patience_s: float = 30.0, clock: Clock | None = None
    ) -> InsertStream:
        streams.append(
            InsertStream(
                serving.channel(),
                "the test's table",
                "experience",
                SLOT,
                INCARNATION,
                window=window,
                max_chunk_bytes=max_chunk_bytes,
                patience_s=patience_s,
                clock=clock,
            )
        )
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()
        assert not stream._thread.is_alive()


def insert(stream: InsertStream, n: int = 1) -> float:
    """Insert `n` items; the last one's wait."""
    waited_s = 0.0
    for _ in range(n):
        waited_s = stream.insert(UnrollHeader(SLOT, 0, 0, 6), {"x": np.arange(6).reshape(3, 2)})
    return waited_s


def error_of_insert(stream: InsertStream) -> errors.ShoalError | None:
    """What an insert raises."""
    try:
        insert(stream)
    except errors.ShoalError as error:
        return error
    return None


def blocked(stream: InsertStream) -> bool:
    """Whether somebody waits inside the stream."""
    waiters: Any = getattr(stream._changed, "_waiters")  # noqa: B009
    return bool(waiters)
