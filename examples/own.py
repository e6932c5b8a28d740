"""An algorithm, a network and an environment of one's own, in one module that every process imports by name.

    shoal train --import examples.own --algorithm cross_entropy --env Corridor --set cross_entropy.network=doubled

The cross-entropy method (Rubinstein 1999) on whole episodes: the policy is fitted to the actions of the best ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import shoal
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.losses import mean
from core.rl.networks import PolicyNetwork
from core.rl.optim import Adam
from core.rl.settings import PolicySettings
from core.rl.torso import Torso
from core.specs import EnvSpec
from core.types import Columns, Context, Episodes, Lag, Plan, Policy, Queue, Result, Task


class Corridor(gym.Env[Any, Any]):
    """Ten cells; 1 at the right end, -0.1 a step. Right is action 1."""

    def __init__(self, length: int = 10) -> None:
        self.length, self.at = length, 0
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """At the left end."""
        super().reset(seed=seed)
        self.at = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One cell to either side."""
        self.at = max(0, self.at + (1 if action == 1 else -1))
        done = self.at >= self.length
        return self._seen(), 1.0 if done else -0.1, done, False, {}

    def _seen(self) -> Any:
        return np.array([self.at / self.length], np.float32)


class Doubled(Torso):
    """Features: the observation and its square."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.size = 2 * spec.observation.size

    def forward(self, obs: Tensor) -> Tensor:
        """[..., D] to [..., 2 D]."""
        return torch.cat((obs, obs.square()), -1)


@dataclass(frozen=True)
class CrossEntropyConfig(PolicySettings):
    """Settings of the cross-entropy method."""

    max_rows: int = bounded(100, low=1)
    """Longer episodes are cut off here."""
    best: float = bounded(0.3, above=0, high=1)
    """Share of the episodes that the policy is fitted to."""
    learning_rate: float = bounded(3e-2, above=0)
    """Adam's step size."""


class CrossEntropy:
    """The contract's six methods."""

    Config = CrossEntropyConfig

    def __init__(self, config: CrossEntropyConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Whole episodes of the policy that is being trained."""
        return Plan(Episodes(self.config.max_rows), Queue(), Lag(0))

    def network(self, spec: EnvSpec) -> PolicyNetwork:
        """A policy."""
        return PolicyNetwork(spec, self.config)

    def policy(self, network: PolicyNetwork, task: Task) -> Policy:
        """Sample."""
        return sampling(network, task, rows=64, record=False)

    def item(self, network: PolicyNetwork, unroll: Columns, task: Task) -> Columns:
        """The episodes themselves."""
        return unroll

    def state(self, network: PolicyNetwork) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: PolicyNetwork, state: Adam, batch: Any, context: Context) -> Result:
        """One step towards the actions of the best episodes."""
        valid_TB = batch["valid"].float()
        returns_B = (batch["reward"] * valid_TB).sum(0)
        bar = torch.quantile(returns_B, 1 - self.config.best)
        chosen_TB = valid_TB * (returns_B >= bar)
        log_probs_TB = network.over(batch).log_prob(from_env(network.action, batch["action"]))
        loss = -mean(log_probs_TB, chosen_TB)
        norm = state.step(loss, self.config.learning_rate)
        return Result(1, {"loss": float(loss.detach()), "bar": float(bar), "grad_norm": float(norm)})


shoal.register.environment("Corridor", Corridor)
shoal.register.network("doubled", Doubled)
shoal.register.algorithm("cross_entropy", CrossEntropy)
