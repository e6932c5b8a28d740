"""What every table does the same way: check shapes, apply each unroll once. Pure, one thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict

from core.specs import Signature
from core.types import Columns, UnrollHeader
from replay_server.dedupe import Dedupe, Life
from replay_server.reports import TableStats
from replay_server.shapes import Shapes


class Table(ABC):
    """Base of the three tables: `RoundQueue` and `FifoQueue` (queue.py), `ReplayTable` (replay.py)."""

    def __init__(self, signature: Signature, max_lives: int) -> None:
        self.signature = signature
        self._shapes = Shapes(signature)
        self._dedupe = Dedupe(max_lives)
        self._duplicates = 0

    def next_seq(self, slot: int, incarnation: int) -> int:
        """The seq that is expected next of a life; what is below it is a known duplicate."""
        return self._dedupe.next_seq(slot, incarnation)

    def may_insert(self, env_steps: int) -> bool:
        """Whether an unroll of so many valid rows may go in now."""
        return True

    def end_life(self, slot: int, incarnation: int) -> None:
        """A life has ended: it will not send again, what was kept for its sake can go."""
        self._dedupe.forget(slot, incarnation)

    @abstractmethod
    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns) -> bool:
        """Take an unroll; False for a known duplicate."""

    @abstractmethod
    def stats(self) -> TableStats:
        """Counters."""

    def figures(self) -> dict[str, float]:
        """The same as `stats`, for the wire and metrics."""
        return {name: float(value) for name, value in asdict(self.stats()).items()}

    def _is_new(self, slot: int, incarnation: int, seq: int) -> bool:
        new = self._dedupe.is_new(slot, incarnation, seq)
        self._duplicates += not new
        return new

    def _applied(self, incarnation: int, seq: int, header: UnrollHeader) -> Life | None:
        """Note an unroll that is in the table. Returns the life that had to be forgotten for it, if any."""
        return self._dedupe.record(header.slot, incarnation, seq)
