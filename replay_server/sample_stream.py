"""One Sample stream on the event loop: rounds applied, priorities in, draws out, and the news in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import numpy as np

from core import wire
from core.clock import Clock
from core.compression import Compressor
from core.errors import CodecError, SchemaError
from core.framing import Buffer, Framed, frame, unframe
from core.types import Array, Columns
from protos import experience_pb2 as pb
from replay_server.hosting import Hosted
from replay_server.insert_stream import EXECUTOR_BYTES
from replay_server.replay import ReplayTable
from replay_server.reports import Drawn
from replay_server.settings import window_bytes

DRAW_STREAM = 1 << 33
"""The second word of the draws' Philox keys, where others have their slots (core/types.py) or a number of their own."""
FIRST_NEWS_S, NEWS_EVERY_S = 0.05, 0.5
READ_AHEAD, READ_AHEAD_BYTES = 64, 8 << 20
"""What is read before it can be answered; a client that sends more waits."""
MOST_PRIORITIES = 1 << 19
"""Of one request."""


class SampleStream:
    """Serves one stream of one client."""

    def __init__(self, hosted: Hosted[ReplayTable], opened: pb.SampleOpen, clock: Clock) -> None:
        self._hosted, self._table, self._opened, self._clock = hosted, hosted.table, opened, clock
        self._by_reference = opened.by_reference and bool(hosted.table.directory)
        self._compressor = Compressor() if opened.compress else None
        self._draws = DrawRng(opened.seed)
        self._unknown_keys, self._item_bytes = 0, window_bytes(hosted.table.definition)
        self._who = "the learner" if opened.headers else "a client"

    async def serve(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The replies."""
        table = self._table
        self._hosted.check_learner(self._opened.learner)
        told = pb.SampleOpened(table_epoch=table.epoch, cells=table.ring.layout.cells, max_items=table.max_items)
        if self._by_reference:
            told.directory = table.directory
        yield pb.SampleReply(opened=told).SerializeToString()
        if self._opened.headers:
            self._hosted.listener = self
            if table.definition.staged:
                table.tell_staged_again()  # what an earlier stream was told may never have arrived
                requests = self._between_news(requests)
        async for data in requests:
            if not data:
                yield await self._reply(pb.SampleReply(), None)
                continue
            request = unframe(pb.SampleRequest, data)
            if request.message.HasField("draw"):
                async for reply in self._answer(request):
                    yield reply
            else:
                self._set_priorities(request)

    async def _between_news(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The requests, and an empty one whenever unrolls were staged: the learner waits for those, not for a draw."""
        hosted, ready = self._hosted, deque[bytes]()

        async def read() -> None:
            async for data in requests:
                ready.append(data)
                hosted.changed()
                await hosted.until(lambda: not _enough(ready), self._who, "")

        reading = asyncio.ensure_future(read())
        reading.add_done_callback(lambda _: hosted.changed())
        try:
            while True:
                await hosted.until(lambda: bool(ready) or self._has_news or reading.done(), self._who, "")
                if self._has_news:
                    yield b""
                elif ready:
                    yield ready.popleft()
                    hosted.changed()
                else:
                    await reading
                    return
        finally:
            reading.cancel()

    @property
    def _has_news(self) -> bool:
        return self._hosted.listener is self and self._table.reports.any

    def _set_priorities(self, request: Framed[pb.SampleRequest]) -> None:
        self._hosted.check_open()
        if not request.payload:
            return
        columns = _read_priorities(request.payload)
        self._unknown_keys += self._table.update_priorities(columns["key"], columns["priority"])
        self._hosted.changed()

    async def _answer(self, request: Framed[pb.SampleRequest]) -> AsyncIterator[bytes]:
        table, draw, started_s = self._table, request.message.draw, self._clock.now_s()
        applies = draw.HasField("apply")
        self._hosted.check_open()
        n = table.check_draw(draw.batches, draw.batch_size) if draw.batches or not (applies or request.payload) else 0
        if applies:
            round_, slots = draw.apply.round, sorted(set(draw.apply.slots))

            def why() -> str | None:
                return table.why_apply_waits(round_, slots)

            async for news in self._wait(lambda: why() is None, f"round {round_}", why, draw, started_s):
                yield news
            table.apply(round_, slots)
            self._hosted.changed()
        self._set_priorities(request)
        reply = pb.SampleReply(draw=draw.draw)
        if n == 0:
            yield await self._reply(reply, {"key": np.empty(0, np.int64)})
            return
        held, leaving = 0 if self._by_reference else n * self._item_bytes, self._hosted.leaving

        def why_it_waits() -> str | None:
            return table.why_sample_waits(n) or (None if leaving.may_hold(held) else leaving.why())

        def may_go() -> bool:
            return table.may_sample(n) and leaving.may_hold(held)

        async for news in self._wait(may_go, "items to sample", why_it_waits, draw, started_s):
            yield news
        leaving.hold(held)
        try:
            drawn = table.sample(n, self._draws.rng(draw.draw), strata=draw.batches, columns=not self._by_reference)
            self._hosted.changed()
            reply.waited_s, reply.items = self._clock.now_s() - started_s, drawn.items
            yield await self._reply(reply, _columns(drawn))
        finally:
            leaving.release(held)

    async def _wait(
        self, allowed: Callable[[], bool], what: str, why: Callable[[], str | None], draw: pb.Draw, started_s: float
    ) -> AsyncIterator[bytes]:
        """News, until it is `allowed`."""
        timeout_s, since_s = FIRST_NEWS_S, self._clock.now_s()
        while not await self._hosted.until(allowed, self._who, what, timeout_s, why, since_s):
            timeout_s = NEWS_EVERY_S
            waited_s = self._clock.now_s() - started_s
            yield await self._reply(pb.SampleReply(draw=draw.draw, reason=why() or what, waited_s=waited_s), None)

    async def _reply(self, reply: pb.SampleReply, columns: Columns | None) -> bytes:
        table = self._table
        if self._hosted.listener is self:
            reply.headers.extend(wire.header_to_proto(h) for h in table.reports.drain())
        reply.inserted_items, reply.sampled_items = table.inserted, table.sampled
        if columns is None:
            return reply.SerializeToString()
        reply.unknown_keys, self._unknown_keys = self._unknown_keys, 0
        return frame(reply, await self._encode(columns))

    async def _encode(self, columns: Columns) -> list[Buffer]:
        compressor = self._compressor
        if compressor is None or sum(column.nbytes for column in columns.values()) < EXECUTOR_BYTES:
            return wire.parts(columns)
        return await asyncio.get_running_loop().run_in_executor(None, wire.parts, columns, compressor)


def _columns(drawn: Drawn) -> dict[str, Array]:
    """What a reply carries."""
    told: dict[str, Array] = {"key": drawn.keys}
    if drawn.probability is not None:
        told["probability"] = drawn.probability
    return told | (drawn.columns or {})


def _enough(ready: deque[bytes]) -> bool:
    return len(ready) >= READ_AHEAD or sum(map(len, ready)) >= READ_AHEAD_BYTES


def _read_priorities(payload: Buffer) -> dict[str, Array]:
    """Keys and priorities. Raises SchemaError before anything is allocated for what they cannot be."""
    header = wire.read_header(payload)
    names = sorted(entry.name for entry in header.entries)
    if names != ["key", "priority"] or header.compressed_bytes:
        raise SchemaError(f"priorities come as columns key and priority, not compressed, and not as {names}")
    most = max(entry.nbytes // entry.dtype.itemsize for entry in header.entries)
    if most > MOST_PRIORITIES:
        raise SchemaError(f"{most:,} priorities came, the limit is {MOST_PRIORITIES:,}: send them in several requests")
    return wire.decode(payload, header)


class DrawRng:
    """Generators of draws: Philox keyed by the seed and this use, counted by the draw. One is made and set anew."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, DRAW_STREAM], np.uint64))
        self._generator, self._state = np.random.Generator(self._bits), self._bits.state

    def rng(self, draw: int) -> np.random.Generator:
        """That of draw j, as if nothing had been drawn before; good until the next call."""
        self._state["state"]["counter"][3] = draw
        self._bits.state = self._state
        return self._generator


def read_open(data: bytes) -> pb.SampleOpen:
    """What a Sample stream begins with. Raises CodecError."""
    message = unframe(pb.SampleRequest, data).message
    if not message.HasField("open"):
        raise CodecError("a Sample stream begins with `open`")
    return message.open
