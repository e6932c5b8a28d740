"""An Experience server whose Sample calls do what the test says, and sample streams to it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from core import errors, rpc_server, wire
from core.framing import frame, unframe
from core.sampling import SampleStream
from core.types import Array
from protos import experience_pb2 as pb
from tests.services.serving import DEADLINE_S, Serving

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
EPOCH = 5


class Request(NamedTuple):
    """A request as the server sees it."""

    draw: pb.Draw | None
    priorities: dict[str, list[float]]


class SampleCall:
    """One Sample call as the test's thread sees it."""

    def __init__(self) -> None:
        self.opening: queue.Queue[pb.SampleOpen] = queue.Queue()
        self.requests: queue.Queue[Request] = queue.Queue()
        self.over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[bytes | errors.ShoalError | None] = asyncio.Queue()

    def send(self, reply: bytes | errors.ShoalError | None) -> None:
        """A reply; an error or None ends the call."""
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, reply)

    def open(self, directory: str = "", epoch: int = EPOCH) -> pb.SampleOpen:
        """Answer the opening, which is returned."""
        opened = self.opening.get(timeout=DEADLINE_S)
        told = pb.SampleOpened(directory=directory, table_epoch=epoch, cells=100, max_items=64)
        self.send(pb.SampleReply(opened=told).SerializeToString())
        return opened

    def next(self) -> Request:
        """The next request."""
        return self.requests.get(timeout=DEADLINE_S)

    def draws(self, n: int) -> list[int]:
        """The numbers of the next draws."""
        return [draw.draw for draw in (self.next().draw for _ in range(n)) if draw is not None]

    def answer(self, draw: int, keys: list[int], columns: dict[str, Array] | None = None, **fields: Any) -> None:
        """Items."""
        payload = {"key": np.array(keys, np.int64), **(columns or {})}
        self.send(frame(pb.SampleReply(draw=draw, **fields), wire.parts(payload)))

    def news(self, **fields: Any) -> None:
        """A reply without items."""
        self.send(pb.SampleReply(**fields).SerializeToString())

    async def serve(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
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
        async for data in requests:
            message, payload = unframe(pb.SampleRequest, data)
            if message.HasField("open"):
                self.opening.put(message.open)
                continue
            priorities = {name: column.tolist() for name, column in wire.decode(payload).items()} if payload else {}
            self.requests.put(Request(message.draw if message.HasField("draw") else None, priorities))


class SampleServer:
    """An Experience service whose Sample calls are handed to the test."""

    def __init__(self) -> None:
        self._calls: queue.Queue[SampleCall] = queue.Queue()

    def next(self) -> SampleCall:
        """The next Sample call."""
        return self._calls.get(timeout=DEADLINE_S)

    @rpc_server.framed
    async def Sample(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        call = SampleCall()
        self._calls.put(call)
        async for reply in call.serve(requests):
            yield reply

    async def unused(self, request: Any, context: Any) -> Any:
        raise errors.ConfigError("the test does not use this call")

    async def Insert(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[pb.InsertReply]:
        async for _ in requests:
            raise errors.ConfigError("the test does not use this call")
        yield pb.InsertReply()

    EnsureTable = DropTable = Info = Checkpoint = Rollback = unused


@pytest.fixture
def sample_server(serving: Serving) -> SampleServer:
    server = SampleServer()
    serving.start(EXPERIENCE, server)
    return server


OpenSampling = Callable[..., SampleStream]


@pytest.fixture
def open_sampling(serving: Serving) -> Iterator[OpenSampling]:
    streams: list[SampleStream] = []

    def open_one(**settings: Any) -> SampleStream:
        streams.append(SampleStream(serving.channel(), "the test's table", "experience", 11, **settings))
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()
        assert not stream._thread.is_alive()
