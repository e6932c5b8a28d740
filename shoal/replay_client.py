"""A replay server for code that is not Shoal's: make tables, insert columns, draw batches, set priorities.

    with shoal.ReplayClient("localhost:5555") as client:
        client.create_table("t", {"obs": ("float32", (4,)), "action": "int64", "reward": "float32"}, capacity=100_000)
        with client.writer("t") as writer:
            writer.insert({"obs": obs, "action": action, "reward": reward})    # [T + 1, B, 4], [T, B], [T, B]
        batch = client.sample("t", batch_size=256)

docs/replay.md has the rest. A client may be used by several threads, a writer or an iterator of batches by one each.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

from google.protobuf.message import Message

from core import errors, rpc
from core.addresses import is_reachable
from core.compression import crosses_network
from core.sampling import SampleStream
from core.stream import InsertStream
from protos import experience_pb2 as pb
from replay_server.dedupe import MOST_SLOT
from replay_server.definition import ReplayDefinition
from shoal.minari_files import Exported, Loaded, export, load, open_dataset, table_of
from shoal.replay_batches import Batch, Batches, To, checked_priorities, checked_size
from shoal.replay_info import Checkpointed, Ensured, RolledBack, ServerInfo, read_info
from shoal.replay_tables import definition, whole
from shoal.replay_writer import Writer

M = TypeVar("M", bound=Message)
REASON_TIMEOUT_S = 2.0
"""Of a writer's place in its table: what the server takes."""


class ReplayClient:
    """A client of the replay server at HOST:PORT or unix:PATH. Nothing is sent until it is used.

    Every wait ends after `timeout_s` at most, unless a call says otherwise; RateLimitedError then has the server's
    reason. A broken connection is resumed for as long. `by_reference` reads batches from the table's files, which is
    many times faster, and needs them on this host; None tries it where the server is on this host.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 30.0,
        by_reference: bool | None = None,
        max_message_bytes: int = 64 << 20,
    ) -> None:
        self.address, self.timeout_s = address, timeout_s
        _check(address, timeout_s)
        far = crosses_network(address)
        self._compress, self._by_reference = far, not far if by_reference is None else by_reference
        self._peer = f"the replay server at {address}"
        self._channel = rpc.open_channel(address, max_message_bytes)
        self._client = rpc.Client(self._channel, pb.DESCRIPTOR.services_by_name["Experience"], self._peer)
        self._lock = threading.Lock()
        self._open: set[Writer | Batches | SampleStream] = set()
        self._idle: dict[str, list[Batches]] = {}  # of each table: what `sample` uses, and nobody at the moment
        self._setting = threading.Lock()
        self._setters: dict[str, SampleStream] = {}
        self._closed = False

    # ------------------------------------------------------------------------------------------ tables

    def create_table(self, name: str, columns: Mapping[str, Any], **settings: Any) -> Ensured:
        """Make a table, or find it, with the settings of `shoal.replay_tables.definition` (docs/replay.md).

        Returns what changed in a table that was there, "setting: old -> new", with `created` and the `items` that it
        holds. Raises ConfigError with all problems.
        """
        wanted = definition(name, columns, **settings)
        request = pb.EnsureTableRequest(
            protocol=rpc.PROTOCOL, table=pb.TableDefinition(name=name, settings=wanted.pack())
        )
        reply = self._call("EnsureTable", request, pb.EnsureTableReply)
        found = None if reply.created else self.info().tables.get(name)
        items = 0 if found is None else int(found.figures["items"])
        return Ensured(reply.changed, reply.created, items)

    def table(self, name: str) -> ReplayDefinition:
        """The definition of a table that is there. Raises TableNotFoundError."""
        tables = self.info().tables
        found = tables[name].definition if name in tables else None
        if found is None:
            raise errors.TableNotFoundError(
                f"{self._peer} has no replay table {name!r}, only {sorted(tables)}: make it with create_table"
            )
        return found

    def drop_table(self, name: str) -> int:
        """End the table for everybody and free what it takes; returns how many items it held."""
        request = pb.DropTableRequest(protocol=rpc.PROTOCOL, table=name)
        return int(self._call("DropTable", request, pb.DropTableReply).items)

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Figures of every table, and who waits for what."""
        reply = self._call("Info", pb.InfoRequest(), pb.InfoReply, timeout_s)
        rpc.check_protocol(reply.protocol, self._peer)
        return read_info(reply)

    def checkpoint(self, name: str, round: int = 0) -> Checkpointed:
        """Write a manifest of the table as it is now, under the number `round`: what `rollback` returns to."""
        request = pb.CheckpointRequest(protocol=rpc.PROTOCOL, table=name, round=round)
        reply = self._call("Checkpoint", request, pb.CheckpointReply)
        return Checkpointed(reply.items, reply.took_s)

    def rollback(self, name: str, round: int) -> RolledBack:
        """Return the table to its manifest of `round`; streams of the table break and come back by themselves."""
        request = pb.RollbackRequest(protocol=rpc.PROTOCOL, table=name, round=round)
        reply = self._call("Rollback", request, pb.RollbackReply)
        return RolledBack(reply.items, reply.lost_items)

    # ------------------------------------------------------------------------------------------ experience

    def writer(self, name: str, *, slot: int | None = None, window: int = 8, timeout_s: float | None = None) -> Writer:
        """A writer into the table; several may write at once. At most `window` unrolls are under way unacknowledged.

        `slot` is a writer's place in the table, by default a random one that nobody else has: a second writer of the
        same slot ends the first.
        """
        slot = secrets.randbelow(MOST_SLOT + 1) if slot is None else whole("slot", slot, 0, MOST_SLOT)
        window = whole("window", window, 1)
        found = self.table(name)
        with self._lock:
            self._check_open()
            stream = InsertStream(
                *(self._channel, self._peer, name, slot, secrets.randbits(63)),
                window=window,
                patience_s=self.timeout_s,
                compress=self._compress,
            )
            timeout_s = self.timeout_s if timeout_s is None else timeout_s
            writer = Writer(stream, found, slot, timeout_s, lambda: self._why(name, "insert"), self._forget)
            self._open.add(writer)
        return writer

    def batches(
        self,
        name: str,
        batch_size: int = 0,
        *,
        prefetch: int = 2,
        to: To = "numpy",
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> Batches:
        """Batches of `batch_size` items (0: the table's) without end, `prefetch` of them requested ahead.

        With a `seed` and the same table, the same batches.
        """
        batch_size, prefetch = checked_size(batch_size, to), whole("prefetch", prefetch, 0)
        with self._lock:
            batches = Batches(
                self._sample_stream(name, seed if seed is None else whole("seed", seed, 0, (1 << 64) - 1)),
                *(name, batch_size, prefetch, to, self.timeout_s if timeout_s is None else timeout_s),
                lambda: self._why(name, "sample"),
                lambda keys, priorities: self.update_priorities(name, keys, priorities),
                self._forget,
            )
            self._open.add(batches)
        return batches

    def sample(self, name: str, batch_size: int = 0, *, to: To = "numpy", timeout_s: float | None = None) -> Batch:
        """One batch of the table as it is now. `batches` is faster for many."""
        batch_size, idle = checked_size(batch_size, to), self._idle.setdefault(name, [])
        try:
            batches = idle.pop()
        except IndexError:
            batches = self.batches(name, prefetch=0)
        batches.batch_size, batches.to = batch_size, to
        batches.timeout_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            batch = next(batches)
        except BaseException:  # Ctrl-C too: the draw that nobody waits for any more must not be taken for the next one
            batches.close()
            raise
        idle.append(batches)
        return batch

    def update_priorities(self, name: str, keys: Any, priorities: Any) -> int:
        """Set priorities [n] of items `keys` [n] of a prioritised table, now. Returns how many of them are gone.

        `Batches.set_priorities` is faster: it goes along with the next request.
        """
        arrays = checked_priorities(keys, priorities)
        with self._setting:
            stream = self._setters.get(name)
            if stream is None:
                with self._lock:
                    stream = self._setters[name] = self._sample_stream(name, None)
            try:
                stream.request(0, priorities=arrays)
                while (reply := stream.receive(self.timeout_s)).keys is None:
                    pass
            except BaseException:  # as in `sample`
                del self._setters[name]
                stream.close()
                raise
        return reply.unknown_keys

    # ------------------------------------------------------------------------------------------ Minari

    def export_minari(self, name: str, dataset_id: str, **settings: Any) -> Exported:
        """Write all that the table holds, in order and as episodes, into a new Minari dataset.

        Reads the table's files, so it must run on the server's host, with a server that keeps files. `settings` are
        those of `shoal.minari_files.export`. Raises ReplayError where it cannot be done, ConfigError for the dataset.
        """
        with self._lock:
            stream = self._sample_stream(name, None, by_reference=True)
            self._open.add(stream)
        try:
            opened = stream.opened
        finally:
            self._forget(stream)
            stream.close()
        if not opened.directory:
            raise errors.ReplayError(
                f"table {name!r} of {self._peer} cannot be read in order: an export reads the table's files, so run it "
                f"on the server's host, as the same user, with a server that keeps files (`shoal replay --data-dir`)"
            )
        return export(opened.directory, opened.table_epoch, dataset_id, **settings)

    def load_minari(self, name: str, dataset_id: str, **settings: Any) -> Loaded:
        """Insert the episodes of a local Minari dataset into the table, made with `settings` where it is not there.

        Raises ConfigError where there is no such dataset, SchemaError where it does not fit the table.
        """
        dataset = open_dataset(dataset_id)
        if name not in self.info().tables:
            self.create_table(name, **({**table_of(dataset, **settings), **settings}))
        with self.writer(name) as writer:
            return load(dataset, writer)

    # ------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """End everything and wake who waits; writers that were not closed lose what is not acknowledged."""
        with self._lock:
            self._closed = True
            everything = [*self._open, *self._setters.values()]
        for one in everything:
            if isinstance(one, Writer):
                one.cancel()
            else:
                one.close()
        self._channel.close()

    def __enter__(self) -> ReplayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sample_stream(self, name: str, seed: int | None, by_reference: bool | None = None) -> SampleStream:
        self._check_open()
        return SampleStream(
            *(self._channel, self._peer, name, secrets.randbits(63) if seed is None else seed),
            by_reference=self._by_reference if by_reference is None else by_reference,
            compress=self._compress,
            patience_s=self.timeout_s,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise errors.UnavailableError(f"this client of {self._peer} was closed")

    def _forget(self, one: Writer | Batches | SampleStream) -> None:
        with self._lock:
            self._open.discard(one)

    def _why(self, name: str, what: str) -> str:
        """Why those wait who want to `what`, as the server says; empty where it says nothing."""
        try:
            table = self.info(min(REASON_TIMEOUT_S, self.timeout_s)).tables.get(name)
        except errors.ShoalError as error:
            return str(error)
        waiters = table.waiters if table else ()
        return "; ".join(w.reason for w in waiters if (what in w.what or "memory" in w.what) and w.reason)

    def _call(self, method: str, request: Any, reply: type[M], timeout_s: float | None = None) -> M:
        self._check_open()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            return self._client.unary(method, request, reply, timeout_s, wait=True)
        except errors.DeadlineError as error:
            raise errors.DeadlineError(f"{error}; is `shoal replay --listen {self.address}` running?") from error


def _check(address: str, timeout_s: Any) -> None:
    if not (isinstance(timeout_s, int | float) and 0 < timeout_s <= threading.TIMEOUT_MAX):
        raise errors.ConfigError(f"timeout_s is {timeout_s!r}: give seconds, more than 0; every wait ends")
    if not is_reachable(address):
        raise errors.ConfigError(f"{address!r} is no address of a replay server: give HOST:PORT or unix:PATH")
