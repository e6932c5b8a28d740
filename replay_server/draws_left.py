"""How often items may still be drawn, in tables with max_times_sampled. Pure, one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay_server.ring import Ring
from replay_server.samplers import Keys, Probabilities, Sampler


class DrawsLeft:
    """Counts draws in the ring's `times`; an item that was drawn often enough is removed.

    Without max_times_sampled every item may be drawn for ever.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def fewer_than(self, n: int) -> bool:
        """Whether `n` draws are more than the table has left."""
        ring = self._ring
        if ring.times is None:
            return ring.items == 0
        return ring.items < n and self._left() < n

    def why(self, n: int) -> str:
        """Where there are fewer."""
        if self._ring.times is None or not self._ring.items:
            return "a sample waits for the first items: the table holds none"
        return (
            f"a sample of {n} items waits for inserts: the {self._ring.items} items that are left may be drawn "
            f"{self._left()} times, each leaves after max_times_sampled {self._ring.max_times}"
        )

    def draw(
        self, sampler: Sampler, n: int, rng: np.random.Generator, strata: int
    ) -> tuple[Keys, Probabilities | None]:
        """`n` keys, none more often than it has draws left; what is over is drawn again from the others."""
        keys, probability = sampler.keys(self._ring, n, rng, strata)
        if self._ring.times is None:
            return keys, probability
        over = np.flatnonzero(~self._count(keys))
        while len(over):
            keys[over], again = sampler.keys(self._ring, len(over), rng)
            if probability is not None and again is not None:
                probability[over] = again
            over = over[~self._count(keys[over])]
        return keys, probability

    def _count(self, keys: Keys) -> NDArray[np.bool_]:
        """Note a draw of each; which of them were allowed. Those that have none left are removed."""
        ring = self._ring
        assert ring.times is not None
        items, inverse, draws = np.unique(keys, return_inverse=True, return_counts=True)
        cells = items % ring.layout.cells
        left = ring.max_times - ring.times[cells].astype(np.int64)
        allowed = np.minimum(draws, left)
        ring.times[cells] += allowed.astype(np.uint32)
        ring.remove(items[allowed == left])
        order = np.argsort(inverse, kind="stable")
        rank = np.empty(len(keys), np.int64)  # the how-manieth draw of its item each one is
        rank[order] = np.arange(len(keys)) - np.repeat(np.cumsum(draws) - draws, draws)
        counted: NDArray[np.bool_] = rank < left[inverse]
        return counted

    def _left(self) -> int:
        ring = self._ring
        assert ring.times is not None
        times = ring.times[ring.live != 0]
        return len(times) * ring.max_times - int(times.sum(dtype=np.int64))
