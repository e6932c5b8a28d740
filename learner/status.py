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


class Seated(NamedTuple):
    """Who sits on a slot: `state` is joining, acting or lost.

    `restarts` counts the lives before it; its speed, and the share of its time that it acted, are of the last seconds;
    `version` is that of its newest unroll (-1: none yet), `silent_s` the time since that came.
    """

    slot: int
    host: str
    pid: int
    state: str
    restarts: int = 0
    env_steps: int = 0
    env_steps_per_s: float = 0.0
    act_share: float | None = None
    version: int = -1
    silent_s: float | None = None


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
    seated: tuple[Seated, ...] = ()

    @property
    def table_fill(self) -> float | None:
        """The share of its capacity that the fullest table uses; None where there is none."""
        fills = [t["items"] / t["capacity"] for t in self.tables.values() if t.get("capacity") and "items" in t]
        return max(fills, default=None)
