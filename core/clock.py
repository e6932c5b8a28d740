"""Time as an argument: processes are given a Clock, tests a FakeClock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where deadlines are read from."""

    def now_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The process's monotonic clock."""

    def now_s(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()


class FakeClock:
    """A clock that moves when a test says so."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """The time that the test set."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self._now_s += seconds
