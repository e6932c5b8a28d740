"""DQN's settings; what they do is in core/algorithms/dqn.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from core.fields import bounded
from core.rl.mlp import Activation
from core.rl.settings import NetworkSettings


@dataclass(frozen=True)
class DQNConfig(NetworkSettings):
    """DQN's settings."""

    replay: Literal["none", "uniform", "prioritised"] = "uniform"
    """Learn once from what comes in, or from a table, drawn uniformly or by priority (Schaul 2016)."""
    unroll_length: int = bounded(16, low=1)
    """Rows that an actor sends at a time."""
    replay_capacity: int = bounded(100_000, low=1)
    """Items (valid rows) that the table holds."""
    batch_size: int = bounded(64, low=1)
    """Items of one update."""
    min_size: int = bounded(1000, low=1)
    """Items before the first update."""
    updates_per_env_step: float = bounded(0.5, above=0)
    """The rate limiter keeps this ratio."""
    batches_per_round: int = bounded(16, low=1)
    """Updates between two published versions."""
    learning_rate: float = bounded(1e-3, above=0)
    """Adam's step size."""
    gamma: float = bounded(0.99, low=0, high=1)
    """Discount factor."""
    target_update_interval: int = bounded(100, low=0)
    """Updates between copies of the online network into the target network, unused with `polyak`; 0: none."""
    polyak: float | None = bounded(None, above=0, high=1)
    """Move the target network this share of the way after every update."""
    double: bool = False
    """The online network chooses the bootstrap's action (van Hasselt 2016)."""
    dueling: bool = False
    """Separate streams for value and advantages (Wang 2016)."""
    n_step: int = bounded(1, low=1)
    """Rewards summed before the bootstrap; fewer where the episode ends."""
    huber: bool = True
    """Huber loss, or the squared error."""
    max_grad_norm: float | None = bounded(10.0, above=0)
    """The gradient's norm is clipped to it; null: never."""
    hidden: tuple[int, ...] = bounded((256, 256), low=1)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Between the layers."""
    epsilon_start: float = bounded(1.0, low=0, high=1)
    """Share of random actions at the start."""
    epsilon_end: float = bounded(0.05, low=0, high=1)
    """Share of random actions after the annealing."""
    epsilon_anneal_env_steps: int = bounded(10_000, low=1)
    """From `epsilon_start` to `epsilon_end` over these many env_steps of the run."""
    priority_exponent: float = bounded(0.6, low=0)
    """How much priorities count: 0 draws uniformly."""
    importance_exponent: float = bounded(0.4, low=0, high=1)
    """How much the losses make up for it at the start; annealed linearly to 1, in full, over the run's budget."""
    actor_priorities: bool = False
    """Actors compute the first priorities (Horgan 2018); otherwise a new item has the largest so far."""

    distribution: Literal["none", "c51", "qr"] = "none"
    """Learn the return's expectation, its probabilities at fixed values, or its quantiles."""
    atoms: int = bounded(51, low=2)
    """Values of c51."""
    value_min: float = -10.0
    """The lowest of them."""
    value_max: float = 10.0
    """The highest of them."""
    quantiles: int = bounded(200, low=1)
    """Quantiles of qr."""
    noisy: bool = False
    """Noise in the layers explores instead of epsilon, which is then 0 (Fortunato 2018)."""
    noisy_sigma: float = bounded(0.5, above=0)
    """Its initial deviation, in units of 1 / sqrt(inputs)."""
    epsilon_per_actor: bool = False
    """Every environment keeps an epsilon of its own (Horgan 2018) instead of annealing one."""
    apex_epsilon: float = bounded(0.4, above=0, below=1)
    """The largest of them."""
    apex_alpha: float = bounded(7.0, low=0)
    """How far they are apart: the smallest is apex_epsilon^(1 + apex_alpha)."""
    clip_rewards: bool = False
    """Learn from the sign of rewards, as is usual for Atari; reported returns stay true."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "recurrent": "dqn has no memory; use ppo, a2c or impala with recurrent, or stack frames in the environment",
        "prioritised": "write replay: prioritised",
    }

    @property
    def has_target(self) -> bool:
        """Whether there is a target network."""
        return self.polyak is not None or self.target_update_interval > 0

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        if self.replay != "none":
            yield from self._table_problems()
        elif self.n_step > self.unroll_length:
            yield (
                f"n_step: without a replay table {self.n_step} rows must come from one unroll, and unroll_length is "
                f"{self.unroll_length}; raise it, or lower n_step"
            )
        if self.actor_priorities and self.replay != "prioritised":
            yield "actor_priorities: are for a prioritised table; set replay to prioritised too, or leave them out"
        if not self.has_target and self.double:
            yield "double: needs a target network to differ from; set target_update_interval above 0, or leave it out"
        if self.polyak is not None and self.target_update_interval == 0:
            yield "polyak: moves a target network, and target_update_interval 0 means none; leave one of them out"
        if self.gamma == 0 and self.has_target:
            yield "gamma: at 0 nothing is bootstrapped, so no target network is needed; set target_update_interval to 0"
        if self.distribution == "c51" and self.value_min >= self.value_max:
            yield f"value_min: {self.value_min:g} must be below value_max {self.value_max:g}"
        if self.noisy and self.epsilon_per_actor:
            yield "noisy: noise explores instead of epsilon_per_actor; leave one of them out"

    def _table_problems(self) -> Iterable[str]:
        if self.min_size > self.replay_capacity:
            yield (
                f"min_size: {self.min_size} items can never be in a table of replay_capacity {self.replay_capacity}; "
                f"lower the first or raise the second"
            )
        if self.batch_size > self.min_size:
            yield (
                f"batch_size: {self.batch_size} is more than min_size {self.min_size}; "
                f"lower the first or raise the second"
            )
