"""How often, and after which pause, a launcher starts a process again. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

FORGIVEN_AFTER_S = 120.0
"""Who lived so long has its whole budget again: what ended it has little to do with what ended it before.

Longer than an actor waits for a seat: those that are never given one must come to an end.
"""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass
class _Record:
    used: int = 0
    started_s: float = 0.0


@dataclass
class Restarts:
    """Each process may be started again `budget` times in a row: at once, then after 1, 2, 4 ... seconds."""

    budget: int
    _records: dict[str, _Record] = field(default_factory=dict)
    _due: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)

    def started(self, name: str, now_s: float) -> None:
        """It lives from now on."""
        self._records.setdefault(name, _Record()).started_s = now_s

    def allow(self, name: str, now_s: float, start: Callable[[], None]) -> str | None:
        """Have `start` called when its pause is over; says so in words. None: its budget is used up."""
        record = self._records.setdefault(name, _Record())
        if now_s - record.started_s >= FORGIVEN_AFTER_S:
            record.used = 0
        if record.used >= self.budget:
            return None
        pause_s = 0.0 if not record.used else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (record.used - 1))
        record.used += 1
        self._due.append((now_s + pause_s, name, start))
        when = f" in {pause_s:g} s" if pause_s else ""
        return f"started again{when} (restart {record.used} of {self.budget})"

    def used(self, name: str) -> int:
        """Restarts in a row so far."""
        return self._records.get(name, _Record()).used

    def waiting(self) -> set[str]:
        """Those whose pause is not over."""
        return {name for _, name, _ in self._due}

    def cancel(self, name: str) -> None:
        """It is not wanted any more."""
        self._due = [entry for entry in self._due if entry[1] != name]

    def run_due(self, now_s: float) -> None:
        """Start those whose pause is over."""
        due = [entry for entry in self._due if entry[0] <= now_s]
        self._due = [entry for entry in self._due if entry[0] > now_s]
        for _, _, start in due:
            start()
