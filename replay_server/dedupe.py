"""Which unrolls are known: every life's counter, so that each unroll is applied exactly once. Pure, one thread."""

from __future__ import annotations

from core.errors import ItemRejectedError

FIRST_SEQ = 1
"""The seq of a life's first unroll."""

MOST_SLOT = (1 << 31) - 1

Life = tuple[int, int]
"""(slot, incarnation)."""


class Dedupe:
    """The last applied seq of every life.

    Bounded: above `max_lives` the life that is idle for longest is forgotten. Should it come back, it finds a gap and
    starts a new incarnation; nothing is applied twice.
    """

    def __init__(self, max_lives: int = 16384) -> None:
        self.max_lives = max_lives
        self._last: dict[Life, int] = {}

    def __len__(self) -> int:
        return len(self._last)

    def lives(self) -> list[Life]:
        """All that are known, the one that is idle for longest first."""
        return list(self._last)

    def next_seq(self, slot: int, incarnation: int) -> int:
        """The seq that is expected next of a life; FIRST_SEQ of one that is not known."""
        return self._last.get((slot, incarnation), FIRST_SEQ - 1) + 1

    def is_new(self, slot: int, incarnation: int, seq: int) -> bool:
        """True: apply it and `record` it. False: a known duplicate. ItemRejectedError: some before it are missing."""
        expected = self.next_seq(slot, incarnation)
        if seq > expected:
            raise ItemRejectedError(
                f"slot {slot}, incarnation {incarnation:#x}: unroll seq {seq} came, {expected} is expected: "
                f"{seq - expected} before it are missing; resend from {expected}, "
                f"or start a new incarnation if that one is no longer held"
            )
        return seq == expected

    def record(self, slot: int, incarnation: int, seq: int) -> Life | None:
        """Note that `seq` is applied. Returns the life that had to be forgotten for it, if any."""
        self._last.pop((slot, incarnation), None)
        self._last[slot, incarnation] = seq  # a dict keeps the order of insertion: the first is idle for longest
        if len(self._last) <= self.max_lives:
            return None
        oldest = next(iter(self._last))
        del self._last[oldest]
        return oldest

    def clear(self) -> None:
        """Nothing is known."""
        self._last.clear()

    def forget(self, slot: int, incarnation: int) -> None:
        """The life has ended; it will not send again."""
        self._last.pop((slot, incarnation), None)
