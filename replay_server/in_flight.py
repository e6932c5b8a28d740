"""A bound in bytes for what came and is not in a table yet, or is drawn and not sent yet. On the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MOST_BYTES = 512 << 20
"""Of all tables and streams of a server together; once for inserts, once for draws."""


class InFlight:
    """Bytes that are held now, and the line of those who wait for room: first come, first served."""

    def __init__(self, on_release: Callable[[], None], most_bytes: int = MOST_BYTES) -> None:
        self.on_release, self.most_bytes, self.nbytes = on_release, most_bytes, 0
        self.line: deque[object] = deque()

    @property
    def full(self) -> bool:
        """Whether nothing more should even be read."""
        return self.nbytes >= self.most_bytes

    def may_hold(self, nbytes: int, place: object | None = None) -> bool:
        """Whether it is `place`'s turn (None: of somebody who is not in line) and there is room. One always may."""
        turn = not self.line if place is None else self.line[0] is place
        return turn and (self.nbytes == 0 or self.nbytes + nbytes <= self.most_bytes)

    def why(self) -> str:
        """What is in the way."""
        return (
            f"{self.nbytes:,} of {self.most_bytes:,} bytes hold items that came before: they wait for room in their "
            "tables, or for clients that are slow to read"
        )

    def hold(self, nbytes: int) -> None:
        """They are held."""
        self.nbytes += nbytes

    def release(self, nbytes: int) -> None:
        """They are free again."""
        was_full, self.nbytes = self.full, self.nbytes - nbytes
        if nbytes and (self.line or was_full):
            self.on_release()
