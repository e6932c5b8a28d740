"""The Experience service over hosted tables: which table a call is for, and what tables there are. On the event loop.

Actors call Insert, the learner EnsureTable and Sample, people Info. protos/experience.proto has the legal order; the
two streams are in insert_stream.py and sample_stream.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, TypeVar

from core import rpc, rpc_server
from core.clock import Clock, SystemClock
from core.errors import ConfigError, ReplayError, TableNotFoundError, UnavailableError
from protos import experience_pb2 as pb
from replay_server import insert_stream, sample_stream
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.hosting import Hosted
from replay_server.in_flight import InFlight
from replay_server.replay import ReplayTable
from replay_server.settings import table_bytes
from replay_server.table import Table

MOST_TABLES = 64
T = TypeVar("T", bound=Table)
logger = logging.getLogger(__name__)


class ExperienceService:
    """Tables by name. `data_dir` None keeps replay tables in memory; `max_bytes` bounds all of them together."""

    def __init__(
        self, clock: Clock | None = None, *, data_dir: DataDir | None = None, max_bytes: int | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._data_dir, self.max_bytes = data_dir, max_bytes
        self._tables: dict[str, Hosted[Any]] = {}
        self.arriving, self.leaving = InFlight(self._changed), InFlight(self._changed)
        self.dropped: list[str] = []
        """Tables that are gone since the metrics were taken last."""
        self.streams = 0
        self.addresses: list[str] = []

    def recover(self) -> None:
        """Serve the tables that the data directory holds. Raises ConfigError."""
        if self._data_dir is None:
            return
        for name in self._data_dir.tables():
            table = ReplayTable.reopen(self._data_dir, name)
            self.host(name, table, table.ring.files.learner)
            logger.info("table %r: %d items are back", name, table.stats().items)

    def leave_free(self, free_bytes: int | None) -> None:
        """Tables may take so much more than they have (None: there is no limit)."""
        self.max_bytes = None if free_bytes is None else self._held_bytes() + free_bytes

    def _held_bytes(self) -> int:
        return sum(hosted.table.stats().held_bytes for hosted in self._tables.values())

    def host(self, name: str, table: T, learner: int = 0) -> Hosted[T]:
        """Serve a table that was made in this process; it is that learner's (0: nobody's)."""
        hosted = Hosted(name, table, self._clock, self.arriving, self.leaving, learner)
        written_s = table.folder.newest_manifest_s if isinstance(table, ReplayTable) and table.durable else None
        if written_s is not None:
            hosted.manifest_s -= max(0.0, time.time() - written_s)
        if isinstance(table, ReplayTable):
            table.ring.files.learner = learner  # a server that is started again still refuses a former learner's actors
        self._tables[name] = hosted
        return hosted

    def _changed(self) -> None:
        for hosted in self._tables.values():
            hosted.changed()

    def hosted(self, name: str) -> Hosted[Any]:
        """The table of that name. Raises TableNotFoundError."""
        if name not in self._tables:
            raise TableNotFoundError(f"no table {name!r}; there are {sorted(self._tables)}")
        return self._tables[name]

    def replay_tables(self) -> list[Hosted[ReplayTable]]:
        """All that are not queues."""
        return [hosted for hosted in self._tables.values() if isinstance(hosted.table, ReplayTable)]

    def close(self) -> None:
        """Close every table; every waiting call ends."""
        for hosted in self._tables.values():
            hosted.close()

    # ------------------------------------------------------------------------------------------ tables

    async def EnsureTable(self, request: pb.EnsureTableRequest, context: Any) -> pb.EnsureTableReply:
        """Make a replay table, or find it; what is asked for wins over what it has."""
        rpc.check_protocol(request.protocol, context.peer())
        definition = ReplayDefinition.unpack(request.table.settings)
        hosted = self._tables.get(definition.name)
        if hosted is not None:
            changed = self._replay(definition.name).table.adopt(definition)
            for change in changed:
                logger.warning("table %r: %s, as its client asks", definition.name, change)
            if request.learner not in (0, hosted.learner):
                self._give_to(request.learner, hosted)
            hosted.changed()
            return pb.EnsureTableReply(created=False, changed=changed, kept=bool(hosted.table.directory))
        self._check_budget(definition)
        table = ReplayTable.open(definition, data_dir=self._data_dir)
        self.host(definition.name, table, request.learner)
        logger.info(
            "table %r: capacity %d items, batches of %d, %g samples an insert, %s",
            *(definition.name, definition.capacity, definition.batch_size, definition.samples_per_insert),
            definition.sampler,
        )
        return pb.EnsureTableReply(created=True, kept=bool(table.directory))

    def _give_to(self, learner: int, hosted: Hosted[ReplayTable]) -> None:
        """The table is another learner's: whoever acts for the former one must not insert any more."""
        if hosted.learner:
            logger.warning("table %r: a new learner has it; actors of the former one join anew", hosted.name)
        self._begin_streams_anew(hosted, f"table {hosted.name!r} has a new learner", learner)

    def _begin_streams_anew(self, hosted: Hosted[ReplayTable], why: str, learner: int) -> None:
        hosted.break_streams(UnavailableError(why))
        self.host(hosted.name, hosted.table, learner).writing = hosted.writing

    def _check_budget(self, definition: ReplayDefinition) -> None:
        if len(self._tables) >= MOST_TABLES:
            raise ConfigError(f"table {definition.name!r} would be the {MOST_TABLES + 1}th; a server has {MOST_TABLES}")
        if self.max_bytes is None:
            return
        held = self._held_bytes()
        need = table_bytes(definition)
        if held + need > self.max_bytes:
            raise ConfigError(
                f"table {definition.name!r} needs {need:,} bytes for a capacity of {definition.capacity:,}; "
                f"{held:,} of this server's {self.max_bytes:,} are used: lower its capacity, or raise --max-bytes"
            )

    def _replay(self, name: str) -> Hosted[ReplayTable]:
        hosted = self.hosted(name)
        if not isinstance(hosted.table, ReplayTable):
            raise ConfigError(
                f"table {name!r} is a queue of the learner that serves here: "
                "give the address of a `shoal replay` (--replay-address)"
            )
        return hosted

    # ------------------------------------------------------------------------------------------ streams

    @rpc_server.framed
    async def Insert(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[pb.InsertReply, None]:
        """Take items of one life, acknowledge each when it is in the table."""
        with self._counted():
            opened = insert_stream.read_open(await rpc_server.first(requests) or b"")
            rpc.check_protocol(opened.protocol, f"actor {opened.slot}")
            hosted, table = self.hosted(opened.table), self.hosted(opened.table).table
            hosted.check_learner(opened.learner)
            replay = table if isinstance(table, ReplayTable) else None
            stream = insert_stream.InsertStream(hosted, opened, staged=replay is not None and replay.definition.staged)
            async with contextlib.aclosing(stream.serve(requests, replay.epoch if replay else 0)) as replies:
                async for reply in replies:
                    yield reply

    @rpc_server.framed
    async def Sample(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes, None]:
        """Answer draws in order, each when the rate limiter allows it."""
        with self._counted():
            opened = sample_stream.read_open(await rpc_server.first(requests) or b"")
            rpc.check_protocol(opened.protocol, context.peer())
            hosted = self.hosted(opened.table)
            if not isinstance(hosted.table, ReplayTable):
                raise TableNotFoundError(f"table {opened.table!r} is a queue: only its own learner takes from it")
            stream = sample_stream.SampleStream(hosted, opened, self._clock)
            async with contextlib.aclosing(stream.serve(requests)) as replies:
                async for reply in replies:
                    yield reply

    @contextlib.contextmanager
    def _counted(self) -> Any:
        if self.streams >= rpc_server.MOST_STREAMS:
            raise ReplayError(f"{self.streams} streams are open, the limit is {rpc_server.MOST_STREAMS}: close some")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    # ------------------------------------------------------------------------------------------ for people, and resume

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoReply:
        """Every table's figures and who waits for what."""
        tables = [self._info(name, hosted) for name, hosted in sorted(self._tables.items())]
        return pb.InfoReply(protocol=rpc.PROTOCOL, tables=tables, addresses=self.addresses)

    def _info(self, name: str, hosted: Hosted[Any]) -> pb.TableInfo:
        told = pb.TableInfo(name=name, figures=hosted.figures())
        for waiter in hosted.waiters():
            reason = waiter.why() or ""
            told.waiters.add(who=waiter.who, what=waiter.what, waited_s=hosted.waited_s(waiter), reason=reason)
        if isinstance(hosted.table, ReplayTable):
            told.definition.name, told.definition.settings = name, hosted.table.definition.pack()
        return told

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointReply:
        """Write a manifest of the table as it is now."""
        rpc.check_protocol(request.protocol, context.peer())
        if request.round < 0:
            raise ReplayError(f"there is no round {request.round}: they begin at 0")
        started_s = self._clock.now_s()
        items = await self.write_manifest(request.table, request.round, request.keep_rounds)
        return pb.CheckpointReply(items=items, took_s=self._clock.now_s() - started_s)

    async def write_manifest(self, name: str, round_: int | None, keep: Sequence[int] = ()) -> int:
        """Taken at once, written beside the loop. Returns the items in it."""
        async with self._replay(name).writing:
            hosted = self._replay(name)  # after a rollback it is not the one that it was
            taken_s = self._clock.now_s()
            write = hosted.table.folder.checkpoint(round_, tuple(keep))
            manifest = await asyncio.get_running_loop().run_in_executor(None, write)
            hosted.manifest_s = taken_s
        return manifest.items

    async def move_mark(self, hosted: Hosted[ReplayTable]) -> None:
        """Let the ring write on, where the disk must hear of it first (replay_server/mark.py)."""
        position = hosted.table.wanted_mark()
        if position is not None:
            loop = asyncio.get_running_loop()
            hosted.table.marked(await loop.run_in_executor(None, hosted.table.folder.write_mark, position))
            self._changed()  # a rollback may have put another one there

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.RollbackReply:
        """Return the table to its manifest of a round; its streams end and come back."""
        rpc.check_protocol(request.protocol, context.peer())
        writing = self._replay(request.table).writing
        async with writing:
            hosted = self._replay(request.table)
            lost = hosted.table.rollback(request.round)
            items = hosted.table.stats().items
            why = f"table {request.table!r} went back to round {request.round}"
            self._begin_streams_anew(hosted, why, hosted.learner)
        logger.warning("table %r is back at round %d: %d items, %d lost", request.table, request.round, items, lost)
        return pb.RollbackReply(items=items, lost_items=lost)

    async def DropTable(self, request: pb.DropTableRequest, context: Any) -> pb.DropTableReply:
        """Forget the table and remove its files."""
        rpc.check_protocol(request.protocol, context.peer())
        async with self._replay(request.table).writing:
            hosted = self._replay(request.table)
            items = hosted.table.stats().items
            left = None if self._data_dir is None else self._data_dir.drop(request.table)
            del self._tables[request.table]
            hosted.break_streams(UnavailableError(f"table {request.table!r} was dropped"))
            hosted.table.abandon()
            self.dropped.append(request.table)
            if left is not None:
                await asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, left)
        logger.warning("table %r: dropped with %d items, as %s asks", request.table, items, context.peer())
        return pb.DropTableReply(items=items)
