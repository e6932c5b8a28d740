"""What every table does the same way: apply each unroll once, tell who it knows. Pure, one thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict

from core.errors import ReplayError
from core.specs import Signature
from core.types import Columns, UnrollHeader
from replay_server.dedupe import Dedupe, Life
from replay_server.reports import TableStats

Size = tuple[int, int]
"""(rows, environments) of an unroll, found when its columns were checked against the signature (core/wire.py)."""


class Table(ABC):
    """Base of the three tables: `RoundQueue` and `FifoQueue` (queue.py), `ReplayTable` (replay.py)."""

    def __init__(self, signature: Signature, max_lives: int) -> None:
        self.signature = signature
        self._dedupe = Dedupe(max_lives)
        self._duplicates = 0

    @property
    def durable(self) -> bool:
        """Whether manifests bound what a power cut loses."""
        return False

    def next_seq(self, slot: int, incarnation: int) -> int:
        """The seq that is expected next of a life; what is below it is a known duplicate."""
        return self._dedupe.next_seq(slot, incarnation)

    def next_seq_sent(self, slot: int, incarnation: int) -> int:
        """The same with what is staged, and so not acknowledged yet, counted in."""
        return self.next_seq(slot, incarnation)

    def incarnations(self, slot: int) -> list[int]:
        """The lives of a slot that are known and not over."""
        return [incarnation for known, incarnation in self._dedupe.lives() if known == slot]

    def ended_lives(self) -> list[Life]:
        """Lives that are over and still known to be, after a recovery."""
        return []

    def may_insert(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> bool:
        """Whether an unroll of that size and so many valid rows may go in now."""
        return True

    def why_insert_waits(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> str | None:
        """What holds it back, with the arithmetic, and who must act; None if it may go."""
        return None

    def why_no_life(self, open_lives: int) -> str | None:
        """Why there is no room for so many lives that write at once; None if there is."""
        return None

    def stage(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Keep an unroll until its round is applied; False where it is known. Only staged replay tables do."""
        raise ReplayError("this table takes unrolls as they come, it stages none")

    def end_life(self, slot: int, incarnation: int) -> None:
        """A life has ended: it will not send again, what was kept for its sake can go."""
        self._dedupe.forget(slot, incarnation)

    @abstractmethod
    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Take an unroll whose columns fit the signature; False for a known duplicate."""

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

    def _record(self, incarnation: int, seq: int, header: UnrollHeader) -> Life | None:
        """Note an unroll that is in the table. Returns the life that had to be forgotten for it, if any."""
        return self._dedupe.record(header.slot, incarnation, seq)
