"""What a table tells: draws, the headers of the unrolls that came in, and its counters. Pure, one thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.types import Array, UnrollHeader

MERGED_SLOT = -1
"""The slot of a header that stands for several unrolls."""

MERGED_EPISODES = 100
"""How many of the newest episodes a merged header keeps (the mean return is over 100 episodes)."""


class Drawn(NamedTuple):
    """A draw: keys [n], their probabilities, windows time-major [before + after, n, ...], and how many items it had."""

    keys: NDArray[np.int64]
    probability: NDArray[np.float64] | None
    columns: dict[str, Array] | None
    items: int


@dataclass(frozen=True)
class TableStats:
    """Counters of a table. Items are unrolls in a queue and valid rows in a replay table.

    `held_bytes` is memory (or file) in use for items, for a ring what it allocated. `dropped` counts items that left
    a queue unused: too stale, or of a slot that left its cohort; `staged` unrolls that wait for their round, `lost`
    what a rollback could not bring back, `unknown_keys` priorities whose items were gone.
    """

    items: int
    capacity: int
    held_bytes: int
    inserted: int
    sampled: int
    evicted: int = 0
    dropped: int = 0
    duplicates: int = 0
    lives: int = 0
    staged: int = 0
    unknown_keys: int = 0
    lost: int = 0


class Reports:
    """Headers of unrolls since the last `drain`: above `limit` headers and episodes the oldest are merged into one.

    Merging adds env_steps and times up, so a learner that reads late still counts every env_step.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._headers: deque[UnrollHeader] = deque()
        self._merged: UnrollHeader | None = None
        self._weight = 0  # of `_headers`: themselves and their episodes

    def add(self, header: UnrollHeader) -> None:
        """Note the header of an unroll that was applied."""
        self._headers.append(header)
        self._weight += 1 + len(header.episodes)
        while self._weight > self.limit and len(self._headers) > 1:
            oldest = self._headers.popleft()
            self._weight -= 1 + len(oldest.episodes)
            self._merged = oldest if self._merged is None else _merge(self._merged, oldest)

    @property
    def any(self) -> bool:
        """Whether `drain` would return some."""
        return bool(self._headers)

    def drain(self) -> list[UnrollHeader]:
        """All headers since the last call, oldest first; the first may be a merged one (slot MERGED_SLOT)."""
        headers = [] if self._merged is None else [self._merged]
        headers.extend(self._headers)
        self._headers.clear()
        self._merged, self._weight = None, 0
        return headers


def _merge(a: UnrollHeader, b: UnrollHeader) -> UnrollHeader:
    return UnrollHeader(
        slot=MERGED_SLOT,
        round=b.round,
        version=b.version,
        env_steps=a.env_steps + b.env_steps,
        episodes=(a.episodes + b.episodes)[-MERGED_EPISODES:],
        act_s=a.act_s + b.act_s,
        wait_weights_s=a.wait_weights_s + b.wait_weights_s,
        wait_acks_s=a.wait_acks_s + b.wait_acks_s,
    )
