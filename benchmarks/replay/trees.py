"""The limit's sum tree: priorities at the leaves, a power of two of them, sums above, and the root at 1."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Tree = NDArray[np.float64]


def new_tree(leaves: int) -> Tree:
    """All priorities 1. Compiles what is called later."""
    tree = np.zeros(2 * leaves)
    tree[leaves:] = 1.0
    for node in range(leaves.bit_length() - 2, -1, -1):
        level = slice(1 << node, 2 << node)
        tree[level] = tree[2 << node : 4 << node].reshape(-1, 2).sum(1)
    update(tree, np.arange(2), np.ones(2))
    draw(tree, np.zeros(2))
    return tree


def _update(tree: Any, index: Any, value: Any) -> None:
    leaves = tree.shape[0] // 2
    for k in range(index.shape[0]):
        node = index[k] + leaves
        change = value[k] - tree[node]
        while node >= 1:
            tree[node] += change
            node >>= 1


def _draw(tree: Any, mass: Any) -> Any:
    leaves = tree.shape[0] // 2
    found = np.empty(mass.shape[0], np.int64)
    for k in range(mass.shape[0]):
        left, node = mass[k], 1
        while node < leaves:
            node <<= 1
            if left >= tree[node]:
                left -= tree[node]
                node += 1
        found[k] = node - leaves
    return found


update = numba.njit(_update, nogil=True)
draw = numba.njit(_draw, nogil=True)
