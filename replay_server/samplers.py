"""Which items to read. A sampler is a pure function of the ring's state and a generator: same both, same keys."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import ReplayError

MAX_DRAW = 1 << 16


class Items(Protocol):
    """What a sampler reads of a ring: positions tail .. head - 1, and which of their cells are items."""

    tail: int
    head: int
    items: int
    live: NDArray[np.uint8]


class Sampler(Protocol):
    """Selects the items to read."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`n` keys, with replacement. ReplayError when there is no item."""
        ...


class UniformSampler:
    """Every item with the same probability: draw positions, reject those that are not items."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`n` keys, with replacement. ReplayError when there is no item."""
        if ring.items == 0:
            raise ReplayError(f"a sample of {n} items from a table that holds none: insert first")
        keys = np.empty(n, np.int64)
        got, span, cells = 0, ring.head - ring.tail, len(ring.live)
        while got < n:
            draws = min(MAX_DRAW, (n - got) * span // ring.items * 9 // 8 + 16)
            drawn = rng.integers(ring.tail, ring.head, draws)
            accepted = drawn[ring.live[drawn % cells] != 0][: n - got]
            keys[got : got + len(accepted)] = accepted
            got += len(accepted)
        return keys
