"""A sum tree: draw a cell with probability value / total, change values, both in batches.

Node 1 is the root, node i has the children 2 i and 2 i + 1, and cell c is leaf size + c. A parent is always computed
anew as left + right, never incremented: the tree is a function of its leaves alone, whatever the order of the changes
was, so it does not drift, and a restored table draws what the one that was saved would have drawn.

Importing this module takes a second (numba) and the kernels are compiled then, not at the first call. They keep the
interpreter lock: a batch takes microseconds, and to get the lock back from a busy thread can take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]
Values = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(signature: str) -> Callable[[Function], Function]:
    """Compiles for this signature; the machine code is kept on disk where numba finds a folder that it can write."""

    def compiled(function: Function) -> Function:
        try:
            fast: Any = numba.njit(signature, cache=True, error_model="numpy")(function)
        except RuntimeError:  # numba: no locator available
            fast = numba.njit(signature, error_model="numpy")(function)
        return cast(Function, fast)

    return compiled


@kernel("void(float64[::1], int64)")
def _sum_up_to(tree: Values, last: int) -> None:
    """The nodes 1 .. last, the deepest first."""
    for i in range(last, 0, -1):
        tree[i] = tree[2 * i] + tree[2 * i + 1]


@kernel("void(float64[::1], int64[::1])")
def _sum_above(tree: Values, nodes: Cells) -> None:
    """The ancestors of these leaves, level by level; `nodes` is used up. In ascending order no node is summed twice."""
    count, width = len(nodes), len(tree) // 4  # width: how many nodes the level of the parents has
    while width > count:
        kept, former = 0, 0
        for k in range(count):
            parent = nodes[k] >> 1
            if parent != former:
                tree[parent] = tree[2 * parent] + tree[2 * parent + 1]
                nodes[kept] = former = parent
                kept += 1
        count, width = kept, width >> 1
    if count > 0:
        _sum_up_to(tree, 2 * width - 1)


@kernel("void(float64[::1], int64[::1], float64[::1])")
def _set(tree: Values, cells: Cells, values: Values) -> None:
    size = len(tree) // 2
    nodes = cells + size
    for k in range(len(cells)):
        tree[nodes[k]] = values[k]
    _sum_above(tree, nodes)


@kernel("void(float64[::1], int64[::1], float32[::1], float64)")
def _set_powers(tree: Values, cells: Cells, priority: NDArray[np.float32], exponent: float) -> None:
    size = len(tree) // 2
    nodes = cells + size
    for k in range(len(cells)):
        tree[nodes[k]] = np.float64(priority[cells[k]]) ** exponent
    _sum_above(tree, nodes)


@kernel("void(float64[::1], uint8[::1], float32[::1], float64)")
def _rebuild_powers(tree: Values, live: NDArray[np.uint8], priority: NDArray[np.float32], exponent: float) -> None:
    size = len(tree) // 2
    for cell in range(len(live)):
        tree[size + cell] = np.float64(priority[cell]) ** exponent if live[cell] != 0 else 0.0
    _sum_up_to(tree, size - 1)


@kernel("void(float64[::1], int64, int64)")
def _fill_zero(tree: Values, first: int, count: int) -> None:
    low = first + len(tree) // 2
    high = low + count - 1
    for i in range(low, high + 1):
        tree[i] = 0.0
    while low > 1:
        low, high = low >> 1, high >> 1
        for i in range(low, high + 1):
            tree[i] = tree[2 * i] + tree[2 * i + 1]


@kernel("void(float64[::1], float64[::1], int64[::1])")
def _find(tree: Values, masses: Values, out: Cells) -> None:
    """Level by level, so that the memory accesses of many draws overlap. `masses` is used up."""
    size = len(tree) // 2
    out[:] = 1
    width = 1
    while width < size:
        for k in range(len(out)):
            left = 2 * out[k]
            # A node that is entered holds more than 0: rounding may bring the mass to the right end of a node or past
            # it, and then the last leaf there that is not 0 is the one.
            right = np.int64(masses[k] >= tree[left]) & np.int64(tree[left + 1] > 0.0)  # no branch: none to mispredict
            masses[k] -= tree[left] if right else 0.0
            out[k] = left + right
        width *= 2
    out -= size


@kernel("void(float64[::1], int64, int64, int64, float64[::1], int64[::1])")
def _draw(tree: Values, cells: int, tail: int, batch: int, uniform: Values, keys: Cells) -> None:
    """Numbers in [0, 1) become keys and, in place, their probabilities."""
    size, step, start = len(tree) // 2, tree[1] / batch, tail % cells
    for k in range(len(uniform)):
        uniform[k] = (k % batch + uniform[k]) * step
    _find(tree, uniform, keys)
    for k in range(len(keys)):
        cell = keys[k]
        uniform[k] = tree[size + cell] / tree[1]
        keys[k] = tail + cell - start + (cells if cell < start else 0)


@kernel("int64(float32[::1])")
def _first_unusable(priorities: NDArray[np.float32]) -> int:
    for k in range(len(priorities)):
        if not 0.0 <= priorities[k] < np.inf:
            return k
    return -1


@kernel("UniTuple(float64, 2)(float64[::1], int64, int64, uint8[::1], float32[::1], float64, int64[::1], float32[::1])")
def _update(
    tree: Values,
    tail: int,
    head: int,
    live: NDArray[np.uint8],
    priority: NDArray[np.float32],
    exponent: float,
    keys: Cells,
    new: NDArray[np.float32],
) -> tuple[float, float]:
    size, cells = len(tree) // 2, len(live)
    nodes = np.empty(len(keys), np.int64)
    known, largest = 0, 0.0
    for k in range(len(keys)):
        cell = keys[k] % cells
        if tail <= keys[k] < head and live[cell] != 0:
            value = np.float64(new[k])
            priority[cell] = new[k]
            tree[size + cell] = value**exponent
            nodes[known] = size + cell
            known += 1
            largest = max(largest, value)
    _sum_above(tree, nodes[:known])
    return float(len(keys) - known), largest


class SumTree:
    """A value of at least 0 for each of `cells` cells, all 0 at first."""

    def __init__(self, cells: int) -> None:
        if cells < 1:
            raise ValueError(f"a sum tree of {cells} cells; it needs at least one")
        self.cells = cells
        self._size = 1 << (cells - 1).bit_length()
        self._tree = np.zeros(2 * self._size)

    @property
    def total(self) -> float:
        return float(self._tree[1])

    def values(self, cells: Cells) -> Values:
        return self._tree[self._size + cells]

    def set(self, cells: Cells, values: Values) -> None:
        """Of a cell that is named twice the last value stays."""
        self._check(cells)
        if values.shape != cells.shape:
            raise ValueError(f"{values.shape} values for {cells.shape} cells")
        _set(self._tree, cells, values)

    def set_powers(self, cells: Cells, priority: NDArray[np.float32], exponent: float) -> None:
        """priority[cells] ^ exponent, `priority` being that of all cells."""
        self._check(cells)
        _set_powers(self._tree, cells, priority, exponent)

    def fill_zero(self, first: int, count: int) -> None:
        """The cells first .. first + count - 1."""
        if not 0 <= first <= first + count <= self.cells:
            raise IndexError(f"cells {first} .. {first + count - 1} of {self.cells}")
        if count:
            _fill_zero(self._tree, first, count)

    def rebuild(self, values: Values) -> None:
        """All cells at once."""
        self._tree[self._size : self._size + self.cells] = values
        _sum_up_to(self._tree, self._size - 1)

    def rebuild_powers(self, live: NDArray[np.uint8], priority: NDArray[np.float32], exponent: float) -> None:
        """All cells at once: priority ^ exponent where `live`, 0 elsewhere."""
        if live.shape != (self.cells,) or priority.shape != (self.cells,):
            raise ValueError(f"{live.shape} live and {priority.shape} priorities for {self.cells} cells")
        _rebuild_powers(self._tree, live, priority, exponent)

    def find(self, masses: Values) -> Cells:
        """The cells where the running sum of the values passes these masses; never one of value 0 if total > 0."""
        out = np.empty(len(masses), np.int64)
        _find(self._tree, masses.copy(), out)
        return out

    def draw(self, n: int, batch: int, tail: int, rng: np.random.Generator) -> tuple[Cells, Values]:
        """Keys (positions from `tail` on) and probabilities; each `batch` of them spread evenly over the whole mass."""
        keys, uniform = np.empty(n, np.int64), rng.random(n)
        _draw(self._tree, self.cells, tail, batch, uniform, keys)
        return keys, uniform

    def update(
        self,
        tail: int,
        head: int,
        live: NDArray[np.uint8],
        priority: NDArray[np.float32],
        exponent: float,
        keys: Cells,
        new: NDArray[np.float32],
    ) -> tuple[int, float]:
        """Stores `new` in `priority` and its powers here, for keys that are items: (how many are not, the largest)."""
        unknown, largest = _update(self._tree, tail, head, live, priority, exponent, keys, new)
        return int(unknown), largest

    def _check(self, cells: Cells) -> None:
        if len(cells) and not 0 <= cells.min() <= cells.max() < self.cells:
            raise IndexError(f"cells {cells.min()} .. {cells.max()} of {self.cells}")


def first_unusable(priorities: NDArray[np.float32]) -> int:
    """Where the first priority is that is negative, infinite or no number; -1: all can be used."""
    return _first_unusable(priorities)
