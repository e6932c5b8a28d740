"""A2C: synchronous advantage actor-critic (Mnih 2016, algorithm S3 with its actors in step).

    A_t = R_t - V(s_t)         R_t: rewards to the unroll's end, and V of its last observation where it goes on
    loss = -E[log pi(a|s) A] + c_v E[(V(s) - R)^2] - c_e E[entropy]
All actors' unrolls of a round make one batch and one step. `gae_lambda` below 1 weighs shorter sums in (Schulman 2016).

Differences from the paper: actors wait for each other, so every gradient is of one version; Adam by choice; the entropy
bonus may anneal to 0. By default actors act with the version before the newest (lag 1), so that learning and acting
overlap; the gradient is then of a policy one step old. `--policy-lag 0` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.losses import Losses, actor_critic_loss, figures, normalised
from core.rl.networks import ActorCritic
from core.rl.optim import Optimiser, OptimiserKind, make_optimiser
from core.rl.returns import gae
from core.rl.schedules import linear
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Lag, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class A2CConfig(OnPolicySettings):
    """A2C's settings."""

    unroll_length: int = bounded(16, low=1)
    """Rows of one unroll; advantages reach to its end."""
    learning_rate: float = bounded(7e-4, above=0)
    """The optimiser's step size."""
    anneal_learning_rate: bool = False
    """Linearly to 0 at the end of the budget."""
    gae_lambda: float = bounded(1.0, low=0, high=1)
    """1: the paper's sums to the unroll's end; below: shorter ones count more (Schulman 2016)."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the value loss."""
    entropy_coefficient: float = bounded(0.01, low=0)
    """Weight of the entropy bonus."""
    anneal_entropy: bool = False
    """Linearly to 0 at the end of the budget."""
    normalise_advantages: bool = False
    """To mean 0 and deviation 1 over the batch."""
    optimiser: OptimiserKind = "rmsprop"
    """RMSProp as in the paper or as in torch (mean square from 0, eps behind the root), or Adam."""
    optimiser_eps: float = bounded(1e-5, above=0)
    """Added to the denominator: behind the root; under it with rmsprop, where 1e-10 is as much as 1e-5 behind."""


class A2C:
    """The contract's six methods."""

    Config = A2CConfig

    def __init__(self, config: A2CConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Unrolls, each used once, acted by the version before the newest."""
        return Plan(Rows(self.config.unroll_length), Queue(), Lag(1))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a value."""
        return ActorCritic(spec, self.config)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample."""
        return sampling(network, task, self.config.unroll_length, record=False)

    def item(self, network: ActorCritic, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: ActorCritic) -> Optimiser:
        """The optimiser."""
        return make_optimiser(self.config.optimiser, network, self.config.optimiser_eps)

    def update(self, network: ActorCritic, state: Optimiser, batch: Batch, context: Context) -> Result:
        """One step on the whole batch."""
        config = self.config
        end = 0.0 if config.anneal_learning_rate else config.learning_rate
        learning_rate = linear(config.learning_rate, end, context.progress)
        end = 0.0 if config.anneal_entropy else config.entropy_coefficient
        entropy_coefficient = linear(config.entropy_coefficient, end, context.progress)
        losses = loss(config, network, batch, entropy_coefficient)
        norm = state.step(losses.total, learning_rate, config.max_grad_norm)
        network.observe(batch)
        return Result(1, {**figures(losses, norm), "learning_rate": learning_rate})


def loss(config: A2CConfig, network: ActorCritic, batch: Batch, entropy_coefficient: float) -> Losses:
    """The loss of a batch of unrolls."""
    valid_TB = batch["valid"].float()
    policy, values_TB = network.over(batch)
    with torch.no_grad():
        rewards_TB = network.rewards(batch)
        advantages_TB = gae(rewards_TB, batch["discount"], valid_TB, values_TB, config.gamma, config.gae_lambda)
        targets_TB = advantages_TB + values_TB[:-1]
        if config.normalise_advantages:
            advantages_TB = normalised(advantages_TB, valid_TB)
    log_probs_TB = policy.log_prob(from_env(network.action, batch["action"]))
    return actor_critic_loss(
        policy,
        log_probs_TB * advantages_TB,
        values_TB[:-1],
        targets_TB,
        valid_TB,
        config.value_coefficient,
        entropy_coefficient,
    )
