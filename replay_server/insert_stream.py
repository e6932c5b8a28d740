"""One Insert stream on the event loop: chunks to items, items into the table, acks back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, NamedTuple

import numpy as np

from core import wire
from core.errors import CodecError, DeadlineError, SchemaError, TooLargeError
from core.framing import Buffer, Framed, unframe
from core.specs import Signature
from core.types import Columns, UnrollHeader
from protos import experience_pb2 as pb
from replay_server.dedupe import MOST_SLOT
from replay_server.hosting import Hosted
from replay_server.table import Size, Table

PART_TIMEOUT_S = 30.0
"""How long the next part of an item may take: what came of it is held meanwhile."""
MOST_ROUND = 1 << 53
_SLACK_BYTES = 1 << 16
EXECUTOR_BYTES = 1 << 16
"""Compressed columns of more than this are unpacked, and packed, beside the loop."""
_KNOWN_HEADERS = 64


class Item(NamedTuple):
    """One unroll as it came, checked."""

    seq: int
    header: UnrollHeader
    columns: Columns
    size: Size


class InsertStream:
    """Serves one stream of one life."""

    def __init__(self, hosted: Hosted[Table], opened: pb.InsertOpen, staged: bool) -> None:
        self._hosted, self._table, self._staged = hosted, hosted.table, staged
        self._slot, self._incarnation = opened.slot, opened.incarnation
        self._reader = _ItemReader(hosted.table.signature, opened.slot)
        self._who = f"actor {opened.slot}"
        self._held_bytes, self._over = 0, False

    async def serve(self, requests: AsyncIterator[bytes], epoch: int) -> AsyncGenerator[pb.InsertReply, None]:
        """The replies."""
        hosted, life = self._hosted, (self._slot, self._incarnation)
        token = hosted.open_life(*life)
        next_seq = self._table.next_seq(*life)
        try:
            yield pb.InsertReply(opened=pb.InsertOpened(next_seq=next_seq, table_epoch=epoch, staged=self._staged))
            serve = self._serve_staged if self._staged else self._serve_direct
            async for ack in serve(requests, token):
                yield pb.InsertReply(ack=ack)
            if self._over:
                hosted.end_life(token, life)
        finally:
            self._release()
            hosted.close_stream(token, life)

    async def _serve_direct(self, requests: AsyncIterator[bytes], token: object) -> AsyncIterator[int]:
        hosted, incarnation, life = self._hosted, self._incarnation, (self._slot, self._incarnation)
        async for data in self._messages(requests):
            last = 0
            async for item in self._items(data):
                if last and not hosted.may_insert_at_once(life, item.seq, item.header, item.size):
                    yield last  # what is in the table must not wait for what is not
                await hosted.insert(token, incarnation, item.seq, item.header, item.columns, item.size)
                last = item.seq
            if last:
                yield last

    async def _serve_staged(self, requests: AsyncIterator[bytes], token: object) -> AsyncIterator[int]:
        """Acks come when rounds are applied, whatever is read meanwhile."""
        hosted, table, life = self._hosted, self._table, (self._slot, self._incarnation)
        reading = asyncio.ensure_future(self._stage_all(requests, token))
        reading.add_done_callback(lambda _: hosted.changed())
        acked = table.next_seq(*life) - 1
        try:
            while True:
                await hosted.until(
                    lambda: table.next_seq(*life) > acked + 1 or _has_ended(reading, table, life),  # noqa: B023
                    f"actor {life[0]}",
                    "",
                )
                if table.next_seq(*life) > acked + 1:
                    acked = table.next_seq(*life) - 1
                    yield acked
                else:
                    await reading
                    return
        finally:
            reading.cancel()

    async def _stage_all(self, requests: AsyncIterator[bytes], token: object) -> None:
        try:
            async for data in self._messages(requests):
                async for item in self._items(data):
                    self._hosted.stage(token, self._incarnation, item.seq, item.header, item.columns, item.size)
        finally:
            self._release()

    async def _messages(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What the client sends, read when there is memory for it. DeadlineError where the rest of an item is late."""
        arriving = self._hosted.arriving
        while True:
            if arriving.full and not self._reader.unfinished:  # an item that was begun has its room already
                await self._hosted.until(lambda: not arriving.full, self._who, "memory for its item", why=arriving.why)
            try:
                async with asyncio.timeout(PART_TIMEOUT_S if self._reader.unfinished else None):
                    data = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineError(f"the next part of an item did not come within {PART_TIMEOUT_S:g} s") from error
            yield data

    async def _items(self, data: bytes) -> AsyncIterator[Item]:
        """The items that this message completes; their bytes count against the server's bound until they are in."""
        request = unframe(pb.InsertRequest, data)
        if request.message.over:
            self._over = True
            return
        announced = self._held_bytes if self._reader.unfinished else 0
        announced = max(announced, self._reader.announced_bytes(request))
        await self._hold(announced)
        for chunk, raw in self._reader.chunks(request):
            whole = self._reader.add(chunk, raw)
            if whole is not None:
                header = wire.read_header(whole.payload)
                size = self._reader.size(header)
                _check_told(whole.head.header, size, "valid" in self._hosted.table.signature.columns)
                columns = await self._decode(whole.payload, header, announced)
                told = wire.header_from_proto(whole.head.header)
                _check_env_steps(told, columns)
                yield Item(whole.head.seq, told, columns, size)
        if not self._reader.unfinished:
            self._release()

    async def _decode(self, payload: Buffer, header: wire.Header, announced: int) -> Columns:
        """Beside the loop where much is compressed, and counted with its true size."""
        if header.compressed_bytes:
            await self._hold(announced + header.compressed_bytes)
        if header.compressed_bytes <= EXECUTOR_BYTES:
            return wire.decode(payload, header)
        return await asyncio.get_running_loop().run_in_executor(None, wire.decode, payload, header)

    async def _hold(self, nbytes: int) -> None:
        """So many bytes from now on. What is held is let go first: who waits and holds would block those who wait."""
        if nbytes > self._held_bytes:
            self._release()
            await self._hosted.hold(nbytes, self._who)
            self._held_bytes = nbytes

    def _release(self) -> None:
        held, self._held_bytes = self._held_bytes, 0
        self._hosted.arriving.release(held)


def _has_ended(reading: asyncio.Future[None], table: Table, life: tuple[int, int]) -> bool:
    """The client sends no more: because of an error, or in order and everything is applied."""
    if not reading.done():
        return False
    failed = reading.cancelled() or reading.exception() is not None
    return failed or table.next_seq(*life) == table.next_seq_sent(*life)


def _check_told(header: pb.UnrollHeader, size: Size, counted: bool) -> None:
    """Numbers that are kept must be such as an unroll of that size can have. SchemaError.

    Items without a column `valid` are made of unrolls (a gradient, returns), whose rows are not `counted` here.
    """
    if not 0 <= header.round <= MOST_ROUND:
        raise SchemaError(f"the header says round {header.round}; rounds are from 0 to {MOST_ROUND}")
    most = size[0] * size[1] if counted else header.env_steps
    if len(header.episodes) > most:
        what = "rows" if counted else "env steps"
        raise SchemaError(f"the header has {len(header.episodes)} episodes, its {most} {what} end {most} at most")


def _check_env_steps(header: UnrollHeader, columns: Columns) -> None:
    """The rate limiter and the budget count what a header says: it must be true."""
    steps = int(np.count_nonzero(columns["valid"])) if "valid" in columns else max(0, header.env_steps)
    if header.env_steps != steps:
        raise SchemaError(f"the header says {header.env_steps} env steps, the columns have {steps}")


class _Whole(NamedTuple):
    """An item whose last part is here; `head` is its first chunk."""

    head: pb.Chunk
    payload: Buffer


class _ItemReader:
    """Puts the parts of one seq together; never holds more than one item of the table's largest size."""

    def __init__(self, signature: Signature, slot: int) -> None:
        self._signature, self._slot = signature, slot
        self._limit_bytes = signature.nbytes(signature.max_rows, signature.max_envs) + _SLACK_BYTES
        self._sizes: dict[int, tuple[wire.Header, Size]] = {}
        self._parts, self._joined = 0, bytearray()  # parts are copied: a view would keep its whole message
        self._size_bytes = 0
        self._head: pb.Chunk | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a part is awaited."""
        return self._head is not None

    def announced_bytes(self, request: Framed[pb.InsertRequest]) -> int:
        """What this message, and the parts it begins, will hold; never more than a message and an item."""
        parts = max((chunk.parts for chunk in request.message.chunks), default=1)
        return min(len(request.payload) * parts, len(request.payload) + self._limit_bytes)

    def chunks(self, request: Framed[pb.InsertRequest]) -> Iterator[tuple[pb.Chunk, memoryview]]:
        """Each chunk with its bytes. Raises CodecError where they are not what the message has."""
        at, payload = 0, request.payload
        for chunk in request.message.chunks:
            end = at + chunk.payload_bytes
            if end > len(payload):
                raise CodecError(f"seq {chunk.seq} ends at byte {end} of a payload of {len(payload)}")
            yield chunk, payload[at:end]
            at = end
        if at != len(payload) or not request.message.chunks:
            raise CodecError(f"a message of {len(request.message.chunks)} chunks has {len(payload) - at} bytes of none")

    def add(self, chunk: pb.Chunk, raw: memoryview) -> _Whole | None:
        """The item when its last part is here. Raises CodecError or TooLargeError."""
        if self._head is None or chunk.part == 0:
            self._head, self._parts, self._joined, self._size_bytes = chunk, 0, bytearray(), 0
        if chunk.part != self._parts or chunk.seq != self._head.seq or chunk.parts != self._head.parts:
            raise CodecError(
                f"part {chunk.part} of {chunk.parts} of seq {chunk.seq} came where part {self._parts} of "
                f"{self._head.parts} of seq {self._head.seq} was expected"
            )
        if not raw and chunk.parts > 1:
            raise CodecError(f"part {chunk.part} of {chunk.parts} of seq {chunk.seq} is empty")
        self._size_bytes += len(raw)
        if self._size_bytes > self._limit_bytes:
            raise TooLargeError(
                f"seq {chunk.seq} has {self._size_bytes} bytes so far; this table's largest item {self._limit_bytes}"
            )
        self._parts += 1
        if chunk.parts > 1:
            self._joined += raw
        if self._parts < chunk.parts:
            return None
        head, payload = self._head, memoryview(self._joined).toreadonly() if chunk.parts > 1 else raw
        self._head, self._joined = None, bytearray()
        if head.header.slot != self._slot:
            raise CodecError(f"an item of slot {head.header.slot} came on the stream of slot {self._slot}")
        return _Whole(head, payload)

    def size(self, header: wire.Header) -> Size:
        """(rows, environments) of an item that fits the signature; a header that was checked before is known."""
        known = self._sizes.get(id(header))
        if known is None:
            known = header, wire.check_header(header, self._signature)
            if len(self._sizes) >= _KNOWN_HEADERS:
                self._sizes.clear()
            self._sizes[id(header)] = known
        return known[1]


def read_open(data: bytes) -> Any:
    """What an Insert stream begins with. Raises CodecError."""
    message = unframe(pb.InsertRequest, data).message
    if not message.HasField("open"):
        raise CodecError("an Insert stream begins with `open`")
    if message.open.slot > MOST_SLOT:
        raise CodecError(f"slot {message.open.slot} is over the limit of {MOST_SLOT}")
    return message.open
