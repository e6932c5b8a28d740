"""The Experience service over hosted tables: translation, reassembly of parts, checks. Runs on the event loop.

Actors call Insert, the learner EnsureTable and Sample, people Info. protos/experience.proto has the legal order.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, TypeVar

import numpy as np

from core import rpc, wire
from core.clock import Clock, SystemClock
from core.errors import CodecError, ConfigError, SchemaError, TableNotFoundError, TooLargeError
from core.specs import Signature
from core.types import Columns, UnrollHeader
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from replay_server.hosting import Hosted
from replay_server.replay import ReplayTable
from replay_server.table import Table

NEWS_EVERY_S = 0.5
_SLACK_BYTES = 1 << 16
T = TypeVar("T", bound=Table)
logger = logging.getLogger(__name__)


class ExperienceService:
    """Tables by name, served."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tables: dict[str, Hosted[Any]] = {}
        self._definitions: dict[str, ReplayDefinition] = {}
        self.addresses: list[str] = []

    def host(self, name: str, table: T) -> Hosted[T]:
        """Serve a table that was made in this process."""
        hosted = Hosted(name, table, self._clock)
        self._tables[name] = hosted
        return hosted

    def hosted(self, name: str) -> Hosted[Any]:
        """The table of that name. Raises TableNotFoundError."""
        if name not in self._tables:
            raise TableNotFoundError(f"no table {name!r}; there are {sorted(self._tables)}")
        return self._tables[name]

    def close(self) -> None:
        """Close every table; every waiting call ends."""
        for hosted in self._tables.values():
            hosted.close()

    async def EnsureTable(self, request: pb.EnsureTableRequest, context: Any) -> pb.EnsureTableReply:
        """Make a replay table, or find it with the same definition."""
        rpc.check_protocol(request.protocol, "the learner")
        definition = ReplayDefinition.unpack(request.table.settings)
        existing = self._definitions.get(definition.name)
        if existing is None and definition.name in self._tables:
            raise ConfigError(
                f"table {definition.name!r} is a queue of the learner that serves here: "
                "give --replay-address that of a `shoal replay`"
            )
        if existing is None:
            self.host(definition.name, ReplayTable.from_definition(definition))
            self._definitions[definition.name] = definition
            logger.info(
                "table %r: capacity %d items, batches of %d, %g samples an insert",
                *(definition.name, definition.capacity, definition.batch_size, definition.samples_per_insert),
            )
        elif existing != definition:
            raise ConfigError(
                f"table {definition.name!r} exists with another definition: {existing}; asked for: {definition}; "
                "restart the replay server or use another table name"
            )
        return pb.EnsureTableReply(created=existing is None)

    async def Insert(self, requests: AsyncIterator[pb.InsertRequest], context: Any) -> AsyncIterator[pb.InsertReply]:
        """Take items of one life, acknowledge each when it is in the table."""
        opened = (await _first(requests)).open
        rpc.check_protocol(opened.protocol, f"actor {opened.slot}")
        hosted = self.hosted(opened.table)
        token = hosted.open_life(opened.slot, opened.incarnation)
        yield pb.InsertReply(next_seq=hosted.table.next_seq(opened.slot, opened.incarnation))
        assembler = _Assembler(hosted.table.signature, opened.slot)
        async for request in requests:
            item = assembler.add(request.chunk)
            if item is None:
                continue
            seq, header, payload = item
            columns = wire.decode(payload)
            wire.check(columns, hosted.table.signature)
            _check_env_steps(header, columns)
            await hosted.insert(token, opened.incarnation, seq, header, columns)
            yield pb.InsertReply(ack=seq)

    async def Sample(self, requests: AsyncIterator[pb.SampleRequest], context: Any) -> AsyncIterator[pb.SampleReply]:
        """Answer draws in order, each when the rate limiter allows it."""
        opened = (await _first(requests)).open
        rpc.check_protocol(opened.protocol, "the learner")
        hosted: Hosted[Table] = self.hosted(opened.table)
        table = hosted.table
        if not isinstance(table, ReplayTable):
            raise TableNotFoundError(f"table {opened.table!r} is a queue: only its own learner takes from it")
        async for request in requests:
            draw, started_s = request.draw, self._clock.now_s()
            n = table.check_draw(draw.batches)
            while not await hosted.until(partial(table.may_sample, n), "the learner", "items to sample", NEWS_EVERY_S):
                yield self._reply(table, pb.SampleReply(draw=draw.draw))
            keys, columns = table.sample(n, _draw_rng(opened.seed, draw.draw))
            hosted.changed()
            reply = pb.SampleReply(draw=draw.draw, keys=keys.tobytes(), payload=wire.encode(columns))
            reply.waited_s = self._clock.now_s() - started_s
            yield self._reply(table, reply)

    @staticmethod
    def _reply(table: ReplayTable, reply: pb.SampleReply) -> pb.SampleReply:
        reply.headers.extend(wire.header_to_proto(h) for h in table.drain_headers())
        reply.inserted_items, reply.sampled_items = table.inserted, table.sampled
        return reply

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoReply:
        """Every table's figures and who waits for what."""
        tables = []
        for name, hosted in sorted(self._tables.items()):
            waiters = [pb.Waiter(who=w.who, what=w.what, since_s=w.since_s) for w in hosted.waiters()]
            tables.append(pb.TableInfo(name=name, figures=hosted.table.figures(), waiters=waiters))
        return pb.InfoReply(protocol=rpc.PROTOCOL, tables=tables, addresses=self.addresses)


def _draw_rng(seed: int, draw: int) -> np.random.Generator:
    key = np.array([seed, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, draw], np.uint64)))


def _check_env_steps(header: UnrollHeader, columns: Columns) -> None:
    """The rate limiter and the budget count what a header says: it must be true."""
    steps = int(np.count_nonzero(columns["valid"])) if "valid" in columns else max(0, header.env_steps)
    if header.env_steps != steps:
        raise SchemaError(f"the header says {header.env_steps} env steps, the columns have {steps}")


async def _first(requests: AsyncIterator[Any]) -> Any:
    async for request in requests:
        if request.WhichOneof("message") == "open":
            return request
        break
    raise CodecError("a stream begins with `open`")


class _Assembler:
    """Puts the parts of one seq together; never holds more than one item of the table's largest size."""

    def __init__(self, signature: Signature, slot: int) -> None:
        self._limit_bytes = signature.nbytes(signature.max_rows, signature.max_envs) + _SLACK_BYTES
        self._slot = slot
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._head: pb.Chunk | None = None

    def add(self, chunk: pb.Chunk) -> tuple[int, UnrollHeader, bytes] | None:
        """(seq, header, payload) when the last part is here. Raises CodecError or TooLargeError."""
        if self._head is None or chunk.part == 0:
            self._head, self._parts, self._size_bytes = chunk, [], 0
        if chunk.part != len(self._parts) or chunk.seq != self._head.seq or chunk.parts != self._head.parts:
            raise CodecError(
                f"part {chunk.part} of {chunk.parts} of seq {chunk.seq} came where part {len(self._parts)} of "
                f"{self._head.parts} of seq {self._head.seq} was expected"
            )
        if not chunk.payload and chunk.parts > 1:
            raise CodecError(f"part {chunk.part} of {chunk.parts} of seq {chunk.seq} is empty")
        self._size_bytes += len(chunk.payload)
        if self._size_bytes > self._limit_bytes:
            raise TooLargeError(
                f"seq {chunk.seq} has {self._size_bytes} bytes so far; this table's largest item {self._limit_bytes}"
            )
        self._parts.append(chunk.payload)
        if len(self._parts) < chunk.parts:
            return None
        head, parts = self._head, self._parts
        self._head, self._parts = None, []
        if head.header.slot != self._slot:
            raise CodecError(f"an item of slot {head.header.slot} came on the stream of slot {self._slot}")
        return head.seq, wire.header_from_proto(head.header), parts[0] if len(parts) == 1 else b"".join(parts)
