"""Unrolls from a dataset instead of an environment: the actor's share of its episodes, over and over.

The episodes are laid end to end, as an environment would have given them one after the other, and cut into as many
strands as the actor has environments. One thread.
"""

from __future__ import annotations

import numpy as np

from core.datasets import episodes, open_fitting
from core.errors import ConfigError
from core.specs import EnvSpec
from core.types import Columns, Episode, Policy, Recorded


class Replayer:
    """Hands out a dataset's rows as unrolls; the policy is not asked."""

    def __init__(self, spec: EnvSpec, collect: Recorded, envs: int, slot: int, slots: int, seed: int) -> None:
        """Raises ConfigError where the dataset does not fit, or there are not enough episodes for so many actors."""
        dataset = open_fitting(collect.dataset, spec)
        share = list(episodes(dataset, spec, slot, slots))
        if not share:
            raise ConfigError(
                f"dataset: {collect.dataset!r} has {dataset.total_episodes} episodes, which is none for slot {slot} of "
                f"{slots}; use fewer --actors"
            )
        self._share, self._envs, self._rows = share, envs, collect.rows
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin anew, in the order that this seed gives."""
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(self._share))
        self._columns = {name: np.concatenate([self._share[i][name] for i in order]) for name in self._share[0]}
        self._size = len(self._columns["valid"])
        self._at = np.arange(self._envs) * self._size // self._envs

    def situation(self) -> str:
        """Where it is, for a message."""
        return "the dataset"

    def collect(self, policy: Policy) -> tuple[Columns, list[Episode]]:
        """The next unroll: obs [T + 1, B, ...], action, reward, discount and valid [T, B]. No episodes are told."""
        where = (self._at + np.arange(self._rows + 1)[:, None]) % self._size
        self._at = where[-1]
        columns = {name: column[where if name == "obs" else where[:-1]] for name, column in self._columns.items()}
        return columns, []
