"""What a replay server says of itself, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition


@dataclass(frozen=True)
class Waiter:
    """Somebody who waits at a table: who, for what, since when, and the arithmetic that holds him back."""

    who: str
    what: str
    waited_s: float
    reason: str


@dataclass(frozen=True)
class TableInfo:
    """A table's counters and who waits; `definition` is None for a learner's queue."""

    name: str
    figures: Mapping[str, float]
    waiters: tuple[Waiter, ...]
    definition: ReplayDefinition | None


@dataclass(frozen=True)
class ServerInfo:
    """All tables of a server by name, and where it listens."""

    tables: Mapping[str, TableInfo]
    addresses: tuple[str, ...]


class Ensured(list[str]):
    """What changed in a table that was there, "setting: old -> new"; empty where it was made.

    `items` are what a table that was there holds: experience of whoever used it before.
    """

    def __init__(self, changed: Iterable[str], created: bool, items: int) -> None:
        super().__init__(changed)
        self.created, self.items = created, items

    def __repr__(self) -> str:
        return f"Ensured({list(self)}, created={self.created}, items={self.items})"


@dataclass(frozen=True)
class Checkpointed:
    """A manifest that was written."""

    items: int
    took_s: float


@dataclass(frozen=True)
class RolledBack:
    """A table that went back to a manifest: what it holds, and how many of the manifest's items are gone."""

    items: int
    lost_items: int


def read_info(reply: pb.InfoReply) -> ServerInfo:
    """Info's reply."""
    return ServerInfo({table.name: _read_table(table) for table in reply.tables}, tuple(reply.addresses))


def _read_table(table: pb.TableInfo) -> TableInfo:
    settings = table.definition.settings
    return TableInfo(
        table.name,
        dict(table.figures),
        tuple(Waiter(w.who, w.what, w.waited_s, w.reason) for w in table.waiters),
        ReplayDefinition.unpack(settings) if settings else None,
    )
