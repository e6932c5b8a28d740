"""What the services tell the training thread about actors and tables. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Waiter(NamedTuple):
    """Who waits for what of a table, since when, and why: the reason has the arithmetic and who must act."""

    table: str
    who: str
    what: str
    waited_s: float
    reason: str


@dataclass(frozen=True)
class Status:
    """Actors in the run, slots whose actor was replaced, and the figures and waiters of the tables.

    `deterministic` is True while nothing has happened that makes a rerun differ.
    """

    actors: int = 0
    replaced: int = 0
    deterministic: bool = False
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    waiters: tuple[Waiter, ...] = ()
