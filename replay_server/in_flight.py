"""A bound in bytes for what came and is not in a table yet, or is drawn and not sent yet. On the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MOST_BYTES = 512 << 20
"""Of all tables and streams of a server together; once for inserts, once for draws."""


class InFlight:
    """Bytes that a server holds now. `on_release` lets those look who wait for room."""

    def __init__(self, on_release: Callable[[], None], most_bytes: int = MOST_BYTES) -> None:
        self.on_release, self.most_bytes, self.nbytes = on_release, most_bytes, 0


class Share:
    """What one table holds of it. One item always may, so no table waits for another one's learner."""

    def __init__(self, whole: InFlight) -> None:
        self._whole, self.nbytes = whole, 0
        self.line: deque[object] = deque()
        """Those who wait for room: first come, first served."""

    @property
    def full(self) -> bool:
        """Whether nothing more should even be read."""
        return self.nbytes > 0 and self._whole.nbytes >= self._whole.most_bytes

    def may_hold(self, nbytes: int) -> bool:
        """Whether there is room for so many bytes more."""
        whole = self._whole
        return self.nbytes == 0 or nbytes == 0 or whole.nbytes + nbytes <= whole.most_bytes

    def why(self) -> str:
        """What is in the way."""
        return (
            f"{self._whole.nbytes:,} of {self._whole.most_bytes:,} bytes hold items that came before: they wait for "
            "room in their tables, or for clients that are slow to read"
        )

    def hold(self, nbytes: int) -> None:
        """They are held."""
        self.nbytes += nbytes
        self._whole.nbytes += nbytes

    def release(self, nbytes: int) -> None:
        """They are free again."""
        self.nbytes -= nbytes
        self._whole.nbytes -= nbytes
        if nbytes:
            self._whole.on_release()
