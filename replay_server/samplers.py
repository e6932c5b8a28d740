"""Which items to read. A sampler is a pure function of the ring's state and a generator: same both, same keys."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, ReplayError, SchemaError

MAX_DRAW = 1 << 16
MAX_EXPONENT = 4.0  # float32 priorities to this power, summed, stay far from the largest float64

Keys = NDArray[np.int64]
Probabilities = NDArray[np.float64]


class Items(Protocol):
    """What a sampler reads of a ring: positions tail .. head - 1, and which of their cells are items."""

    max_priority: float

    @property
    def tail(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def items(self) -> int: ...
    @property
    def live(self) -> NDArray[np.uint8]: ...
    @property
    def priority(self) -> NDArray[np.float32] | None: ...


class Index(Protocol):
    """Who is told by a ring what becomes an item and what is one no more."""

    def appeared(self, cells: NDArray[np.int64]) -> None:
        """These cells, ascending, hold items now."""
        ...

    def vanished(self, first_cell: int, count: int) -> None:
        """None of these cells holds an item any more; the range does not wrap."""
        ...

    def removed(self, cells: NDArray[np.int64]) -> None:
        """Neither do these."""
        ...

    def rebuilt(self) -> None:
        """Everything may be different."""
        ...


class Sampler(Index, Protocol):
    """Selects the items to read."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        """`n` keys, with replacement, and their probabilities unless all are the same. ReplayError: there is no item.

        They are `strata` batches of one size; a sampler that stratifies does so in each of them by itself.
        """
        ...


class UniformSampler:
    """Every item with the same probability: draw positions, reject those that are not items."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        """`n` keys, with replacement; `strata` changes nothing. ReplayError when there is no item."""
        return uniform_keys(ring, n, rng), None

    def appeared(self, cells: NDArray[np.int64]) -> None:
        pass

    def vanished(self, first_cell: int, count: int) -> None:
        pass

    def removed(self, cells: NDArray[np.int64]) -> None:
        pass

    def rebuilt(self) -> None:
        pass


def uniform_keys(ring: Items, n: int, rng: np.random.Generator) -> Keys:
    """`n` keys, each item with the same probability. ReplayError when there is no item."""
    items, tail, head = ring.items, ring.tail, ring.head
    span = head - tail
    if items == 0:
        raise ReplayError(f"a sample of {n} items from a table that holds none: insert first")
    if items == span:
        return rng.integers(tail, head, n)
    keys, live = np.empty(n, np.int64), ring.live
    start = tail % len(live)  # start .. start + span - 1 passes the end of the cells once at most, as `wrap` needs it
    got = 0
    while got < n:
        draws = min(MAX_DRAW, (n - got) * span // items * 9 // 8 + 16)
        drawn = rng.integers(start, start + span, draws)
        accepted = drawn[live.take(drawn, mode="wrap").astype(bool)][: n - got]
        keys[got : got + len(accepted)] = accepted
        got += len(accepted)
    keys += tail - start
    return keys


class PrioritisedSampler:
    """An item with probability priority^exponent / sum over all; without any priority above 0, uniformly."""

    def __init__(self, cells: int, exponent: float) -> None:
        from replay_server.tree import SumTree  # numba: a second to import, which a uniform table does not need

        if not 0.0 <= exponent <= MAX_EXPONENT:
            raise ConfigError(f"a priority exponent of {exponent}; it must be in 0 .. {MAX_EXPONENT}, usual is 0.6")
        self._tree, self._exponent = SumTree(cells), float(exponent)
        self._ring: Items | None = None

    def bind(self, ring: Items) -> None:
        """The ring whose items and priorities these are; what it holds already is taken over."""
        self._ring = ring
        self.rebuilt()

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        """`n` keys, with replacement, and their probabilities. ReplayError when there is no item."""
        batch, rest = divmod(n, strata)
        if rest:
            raise ReplayError(f"a draw of {n} items in {strata} batches; they must have one size: draw a multiple")
        if ring.items == 0 or self._tree.total == 0.0:
            return uniform_keys(ring, n, rng), np.full(n, 1 / max(1, ring.items))
        return self._tree.draw(n, batch, ring.tail, rng)

    def update(self, keys: NDArray[np.int64], priorities: NDArray[np.float32]) -> int:
        """New priorities; the last one of a key stays. Returns how many keys are no items any more: they are ignored.

        SchemaError, and nothing is changed, where these are no priorities.
        """
        keys, priorities = usable(keys, priorities)
        ring = self._bound()
        unknown, largest = self._tree.update(
            ring.tail, ring.head, ring.live, self._priority(), self._exponent, keys, priorities
        )
        if largest > ring.max_priority:
            ring.max_priority = largest
        return unknown

    def appeared(self, cells: NDArray[np.int64]) -> None:
        self._tree.set_powers(cells, self._priority(), self._exponent)

    def vanished(self, first_cell: int, count: int) -> None:
        self._tree.fill_zero(first_cell, count)

    def removed(self, cells: NDArray[np.int64]) -> None:
        self._tree.set(cells, np.zeros(len(cells)))

    def rebuilt(self) -> None:
        self._tree.rebuild_powers(self._bound().live, self._priority(), self._exponent)

    def _bound(self) -> Items:
        if self._ring is None:
            raise ReplayError("a prioritised sampler without a ring: bind it first")
        return self._ring

    def _priority(self) -> NDArray[np.float32]:
        priority = self._bound().priority
        if priority is None:
            raise ReplayError("a prioritised sampler on a ring without priorities: make the ring with them")
        return priority


def usable(keys: NDArray[np.int64], priorities: NDArray[np.float32]) -> tuple[Keys, NDArray[np.float32]]:
    """Copies that a kernel takes (what came by wire is read-only). Raises SchemaError."""
    from replay_server.tree import first_unusable

    if keys.ndim != 1 or keys.shape != priorities.shape:
        raise SchemaError(
            f"priorities of shape {priorities.shape} for keys of shape {keys.shape}; both must be [n]: send one "
            "priority a key"
        )
    if keys.dtype.kind not in "iu" or priorities.dtype.kind not in "iuf":
        raise SchemaError(
            f"keys are {keys.dtype} and priorities {priorities.dtype}; they must be int64 and float32: convert them"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is inf, and refused below
        mine = np.array(priorities, np.float32)
    bad = first_unusable(mine)
    if bad >= 0:
        raise SchemaError(
            f"the priority of key {keys[bad]} is {priorities[bad]}; it must be a number from 0 to "
            f"{np.finfo(np.float32).max:.3g}: look for a loss that is not finite, or send its absolute value"
        )
    return np.array(keys, np.int64), mine
