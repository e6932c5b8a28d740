"""What the services tell the training thread about actors and tables. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Actors in the run, slots whose actor was replaced, and the figures of the tables that this process hosts.

    `deterministic` is True while nothing has happened that makes a rerun differ.
    """

    actors: int = 0
    replaced: int = 0
    deterministic: bool = False
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
