"""Unrolls whose every row says which row it is, so that a row off by one is seen as a number."""

from __future__ import annotations

import numpy as np

from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Array, UnrollHeader

STRIDE = 10**6


def signature(max_rows: int, max_envs: int, *, wide: int = 1) -> Signature:
    """obs int64 [wide], reward int64, valid uint8."""
    return Signature(
        {
            "obs": ColumnSpec(ArraySpec((wide,), "int64"), extra_rows=1),
            "reward": ColumnSpec(ArraySpec((), "int64")),
            "valid": ColumnSpec(ArraySpec((), "uint8")),
        },
        max_rows,
        max_envs,
    )


class CountingLife:
    """One life of an actor: obs = reward = (slot + 1, env, row) as one number; episodes end at random (NEXT_STEP)."""

    def __init__(self, slot: int, incarnation: int, envs: int, rng: np.random.Generator, *, end: float = 0.1) -> None:
        self.slot, self.incarnation, self.envs = slot, incarnation, envs
        self.base = ((slot + 1) * 1000 + incarnation) * 100 * STRIDE + np.arange(envs) * STRIDE
        self.row = 0
        self.seq = 0
        self._rng, self._end, self._ended = rng, end, np.zeros(envs, bool)

    def unroll(self, rows: int) -> dict[str, Array]:
        """The next `rows` rows, [rows (+ 1), envs, ...]."""
        valid = np.zeros((rows, self.envs), np.uint8)
        for t in range(rows):
            valid[t] = ~self._ended
            self._ended = ~self._ended & (self._rng.random(self.envs) < self._end)
        numbers = self.base + (self.row + np.arange(rows + 1))[:, None]
        self.row += rows
        self.seq += 1
        return {"obs": numbers[..., None], "reward": numbers[:-1], "valid": valid}

    def restarted(self, number: int) -> CountingLife:
        """The same life with environments that began anew; its rows are counted as those of life `number`."""
        anew = CountingLife(self.slot, number, self.envs, self._rng, end=self._end)
        anew.incarnation, anew.seq = self.incarnation, self.seq
        return anew

    def header(self, columns: dict[str, Array], round: int = 0, version: int = 0) -> UnrollHeader:
        """The header of an unroll."""
        return UnrollHeader(self.slot, round, version, int(columns["valid"].sum()))
