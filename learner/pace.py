"""How a replay table is drawn from: how many batches a round gets, in which draws, put together how. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from core.types import Array, Columns


@dataclass
class UpdateCount:
    """With a fixed lag the number of updates is arithmetic, in exact numbers:

    updates so far = floor(max(0, env_steps so far - min_size) x updates_per_env_step)

    Counted from where the table was empty.
    """

    min_size: int
    updates_per_env_step: float
    env_steps: int = 0
    updates: int = 0

    def due(self, env_steps: int, *, may_draw: bool = True) -> int:
        """The updates of a round that brought `env_steps` more; what may not be drawn yet is due in a later round."""
        self.env_steps += env_steps
        if not may_draw:
            return 0
        ratio = Fraction(repr(self.updates_per_env_step))  # as it was written: 0.1 is a tenth
        updates = math.floor(max(0, self.env_steps - self.min_size) * ratio) - self.updates
        self.updates += updates
        return updates


@dataclass(frozen=True)
class Drawing:
    """Where drawing behind a fixed lag stands between two rounds: draws count on from here, of the same `seed`.

    `keys` [n] and `priorities` [n] were computed and not set yet; None: there are none.
    """

    seed: int
    next_draw: int = 0
    env_steps: int = 0
    updates: int = 0
    may_draw: bool = False
    keys: Array | None = None
    priorities: Array | None = None

    def to_plain(self) -> dict[str, Any]:
        """For a checkpoint: numbers, and tensors for arrays. The seed is text: JSON has no 64 bits."""
        arrays = {name: getattr(self, name) for name in ("keys", "priorities")}
        tensors = {name: None if array is None else torch.from_numpy(array) for name, array in arrays.items()}
        return {**vars(self), "seed": str(self.seed), **tensors}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Drawing:
        """The inverse."""
        arrays = {name: plain[name] for name in ("keys", "priorities")}
        known = {name: None if tensor is None else tensor.numpy() for name, tensor in arrays.items()}
        return cls(**{**plain, "seed": int(plain["seed"]), **known})


class Part(NamedTuple):
    """One draw."""

    batches: int
    batch_size: int


def split(batches: int, batch_size: int, max_items: int) -> list[Part]:
    """`batches` of `batch_size` as draws of at most `max_items` items, in order; a batch is cut only if it must be."""
    if batch_size > max_items:
        whole, rest = divmod(batch_size, max_items)
        return ([Part(1, max_items)] * whole + [Part(1, rest)] * (rest > 0)) * batches
    most = max_items // batch_size
    whole, rest = divmod(batches, most)
    return [Part(most, batch_size)] * whole + [Part(rest, batch_size)] * (rest > 0)


def join(drawn: Sequence[Columns], without_rows: Collection[str]) -> Columns:
    """The columns [W, n, ...] of draws as those of one; those `without_rows` are [n, ...]."""
    if len(drawn) == 1:
        return drawn[0]
    return {name: np.concatenate([d[name] for d in drawn], int(name not in without_rows)) for name in drawn[0]}


def latest(priorities: Sequence[tuple[Array, Array]]) -> tuple[Array, Array] | None:
    """(keys, priorities) of several batches as one; a key that comes twice has its last priority behind the others."""
    if not priorities:
        return None
    keys, values = zip(*priorities, strict=True)
    return np.concatenate(keys), np.concatenate(values)


def draw_seed(seed: int, first_version: int) -> int:
    """The seed of a run's draws; one that goes on from no reset point draws others than before, and always the same."""
    if first_version == 0:
        return seed
    return int(np.random.SeedSequence([seed, first_version]).generate_state(1, np.uint64)[0])
