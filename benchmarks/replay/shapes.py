"""What is inserted: steps of CartPole's and of Atari's size, as columns [T, B, ...]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
SCALARS: Mapping[str, str] = {"action": "int64", "reward": "float32", "discount": "float32"}
STACK = 4
"""Frames in an Atari observation; a step brings one, so a transition with obs and next obs has STACK + 1."""

SIZES: Mapping[str, tuple[int, int]] = {"small-1x1": (1, 1), "small-16x8": (16, 8)}
"""Small unrolls: T, B."""
SMALL_WRITERS, SMALL_WINDOW = 8, 16


@dataclass(frozen=True)
class Kind:
    """One size of step, the unrolls that a fast writer sends of it, and how many steps a table holds."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: int
    envs: int
    capacity: int

    @property
    def before(self) -> int:
        """Rows of a window in front of its own."""
        return STACK - 1 if self.name == "atari" else 0

    def columns(self, rows: int, envs: int, extra_rows: int = 1) -> Columns:
        """An unroll: `extra_rows` more of obs than of the rest, and numbers that are not all the same."""
        count = (rows + extra_rows) * envs * int(np.prod(self.shape))
        obs = (np.arange(count) % 251).astype(self.dtype).reshape(rows + extra_rows, envs, *self.shape)
        columns: Columns = {"obs": obs}
        for name, dtype in SCALARS.items():
            columns[name] = np.ones((rows, envs), dtype)
        return columns


KINDS = {
    kind.name: kind
    for kind in (
        Kind("cartpole", (4,), "float32", rows=64, envs=64, capacity=1 << 20),
        Kind("atari", (84, 84), "uint8", rows=32, envs=8, capacity=1 << 15),
    )
}


def nbytes(columns: Mapping[str, NDArray[Any]]) -> int:
    """Bytes of all columns."""
    return sum(column.nbytes for column in columns.values())
