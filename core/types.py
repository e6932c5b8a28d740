"""The words that the three services share: columns, tasks, plans. Pure data, no torch, no I/O.

Shapes are [T, B, ...] throughout: T rows in time, B environments of one actor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Columns = Mapping[str, Array]
"""Named arrays with leading axes [T, B]; `obs` has one row more than the rest (the bootstrap observation)."""


class Task(NamedTuple):
    """What one unroll is for: a function of config, topology and weights, so a replacement actor can repeat it.

    `env_steps` is the learner's count when it published the weights that act; schedules read it.
    """

    seed: int
    slot: int
    slots: int
    round: int
    env_steps: int = 0
    budget_env_steps: int = 1
    explore: bool = True

    def rng(self) -> np.random.Generator:
        """A generator of this unroll's own: Philox keyed by (seed, slot), counted by (explore, round)."""
        key = np.array([self.seed, self.slot], np.uint64)
        counter = np.array([0, 0, int(self.explore), self.round], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Step(NamedTuple):
    """A policy's answer for one row of B environments.

    `columns` are behaviour facts to record beside the row, such as `log_prob` [B]; `memory` is the recurrent state.
    """

    action: Array
    columns: Columns
    memory: Any = None


Policy = Callable[[Array, Any], Step]
"""(obs [B, ...], memory) -> Step. Made anew for every unroll; exploration is fixed inside."""


@dataclass(frozen=True)
class Rows:
    """Collect unrolls of `rows` rows that run on across episodes."""

    rows: int


@dataclass(frozen=True)
class Episodes:
    """Collect whole episodes: every environment is reset at the start and plays `per_env` of them.

    The unroll ends when all have ended, or after `max_rows` rows.
    """

    max_rows: int
    per_env: int = 1


@dataclass(frozen=True)
class Recorded:
    """Collect nothing: hand out a Minari dataset in unrolls of `rows` rows, over and over, each actor its share."""

    dataset: str
    rows: int


@dataclass(frozen=True)
class Queue:
    """Items are unrolls, each used once. `items` is how many make a batch in async mode (in lag mode: the cohort)."""

    items: int = 1


@dataclass(frozen=True)
class Replay:
    """Items are valid rows with a window of `before` rows in front and `after` rows from the row on.

    In async pace a round draws `batches_per_round` batches of `batch_size` items and does one update with each; with a
    fixed lag it draws as many as `updates_per_env_step` asks for. With `prioritised`, items are drawn with probability
    priority^`priority_exponent` / sum. An item leaves after `max_times_sampled` draws (0: never). With `evict` false
    nothing ever makes room for something newer: the learner makes the table as large as the run's budget.
    """

    capacity: int
    batch_size: int
    min_size: int
    updates_per_env_step: float
    batches_per_round: int = 1
    before: int = 0
    after: int = 1
    prioritised: bool = False
    priority_exponent: float = 0.6
    max_times_sampled: int = 0
    evict: bool = True

    @property
    def samples_per_insert(self) -> float:
        """Average number of times an item is sampled in its life."""
        return self.updates_per_env_step * self.batch_size


@dataclass(frozen=True)
class Lag:
    """Unroll u is acted with exactly version max(0, u - rounds)."""

    rounds: int


@dataclass(frozen=True)
class Async:
    """Actors take the newest weights. Items staler than `max_staleness` are dropped and counted (None: kept).

    With `own_applied` an actor waits for weights that contain what it sent last (or for its being dropped).
    """

    max_staleness: int | None = None
    own_applied: bool = False


@dataclass(frozen=True)
class Plan:
    """How an algorithm's experience is collected, stored and paced: all that the services read of it."""

    collect: Rows | Episodes | Recorded
    table: Queue | Replay
    pace: Lag | Async


class Context(NamedTuple):
    """What `update` may know beside its batch. `env_steps` counts the steps that came in, this batch's included."""

    rng: np.random.Generator
    round: int
    env_steps: int
    budget_env_steps: int

    @property
    def progress(self) -> float:
        """Share of the budget that is used, in [0, 1]; schedules read it."""
        return min(1.0, self.env_steps / self.budget_env_steps)


@dataclass
class Result:
    """What one call of `update` did; for a prioritised table also the new `priorities` [n], in the batch's order."""

    updates: int
    metrics: dict[str, float] = field(default_factory=dict)
    priorities: Array | None = None


class Episode(NamedTuple):
    """One episode that ended: undiscounted sum of raw rewards, and length in env_steps."""

    total_reward: float
    length: int


@dataclass(frozen=True)
class UnrollHeader:
    """What travels beside an unroll's columns. Times are the actor's, spent on this unroll, in seconds.

    `restarted`: its environments began anew with it, so its first row does not follow the unroll before.
    """

    slot: int
    round: int
    version: int
    env_steps: int
    episodes: tuple[Episode, ...] = ()
    act_s: float = 0.0
    wait_weights_s: float = 0.0
    wait_acks_s: float = 0.0
    restarted: bool = False
