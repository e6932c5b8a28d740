"""IMPALA: actors that never wait, and V-trace that corrects for it (Espeholt 2018).

    v_t = V(s_t) + sum_k gamma^k (prod c) rho (r + gamma V' - V)
    rho = min(rho_bar, pi/mu), c = lambda min(c_bar, pi/mu)
    loss = -E[log pi(a|s) rho (r + gamma v' - V)] + c_v E[(V - v)^2] - c_e E[entropy]
(eq. 1 and section 4.2; core/rl/returns.py). mu is the behaviour probability that the actor recorded. Actors take the
newest weights; an unroll that is more than `max_staleness` versions old when it is taken is dropped and counted.

Differences from the paper: Adam or RMSProp by choice, losses are means over valid rows instead of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.losses import Losses, actor_critic_loss, figures, mean
from core.rl.networks import ActorCritic
from core.rl.optim import Optimiser, OptimiserKind, make_optimiser
from core.rl.returns import vtrace
from core.rl.schedules import linear
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Async, Columns, Context, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class ImpalaConfig(OnPolicySettings):
    """IMPALA's settings."""

    unroll_length: int = bounded(20, low=1)
    """Rows of one unroll."""
    batch_unrolls: int = bounded(1, low=1)
    """Unrolls, of one actor each, that make a batch."""
    max_staleness: int | None = bounded(None, low=0)
    """Unrolls acted by a version older than this are dropped and counted; null: none are."""
    learning_rate: float = bounded(6e-4, above=0)
    """The optimiser's step size."""
    anneal_learning_rate: bool = False
    """Linearly to 0 at the end of the budget."""
    rho_bar: float = bounded(1.0, above=0)
    """The ratio that weighs a correction is clipped to it; decides which policy's value is learned."""
    c_bar: float = bounded(1.0, above=0)
    """The ratio that hands a correction back in time is clipped to it; decides how fast."""
    trace_decay: float = bounded(1.0, low=0, high=1)
    """The lambda of the traces."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the value loss."""
    entropy_coefficient: float = bounded(0.01, low=0)
    """Weight of the entropy bonus."""
    optimiser: OptimiserKind = "adam"
    """RMSProp as in the paper or as in torch (mean square from 0, eps behind the root), or Adam."""
    optimiser_eps: float = bounded(1e-5, above=0)
    """Added to the denominator: behind the root; under it with rmsprop, where 1e-10 is as much as 1e-5 behind."""


class Corrected(NamedTuple):
    """A loss and how far the policy that acted is from the one that learns."""

    losses: Losses
    mean_ratio: Tensor
    clip_fraction: Tensor


class Impala:
    """The contract's six methods."""

    Config = ImpalaConfig

    def __init__(self, config: ImpalaConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Unrolls, each used once, by actors that take the newest weights."""
        config = self.config
        return Plan(Rows(config.unroll_length), Queue(config.batch_unrolls), Async(config.max_staleness))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a value."""
        return ActorCritic(spec, self.config)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample; `log_prob` is recorded."""
        return sampling(network, task, self.config.unroll_length)

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
        found = loss(config, network, batch)
        norm = state.step(found.losses.total, learning_rate, config.max_grad_norm)
        network.observe(batch)
        metrics = figures(found.losses, norm)
        metrics["ratio_mean"], metrics["clip_fraction"] = torch.stack(found[1:]).tolist()
        return Result(1, {**metrics, "learning_rate": learning_rate})


def loss(config: ImpalaConfig, network: ActorCritic, batch: Batch) -> Corrected:
    """The corrected loss of a batch of unrolls."""
    valid_TB = batch["valid"].float()
    policy, values_TB = network.over(batch)
    log_probs_TB = policy.log_prob(from_env(network.action, batch["action"]))
    with torch.no_grad():
        log_ratios_TB = log_probs_TB - batch["log_prob"]
        corrected = vtrace(
            network.rewards(batch),
            batch["discount"],
            valid_TB,
            values_TB,
            log_ratios_TB,
            config.gamma,
            rho_bar=config.rho_bar,
            c_bar=config.c_bar,
            trace_decay=config.trace_decay,
        )
        ratios_TB = log_ratios_TB.exp()
    losses = actor_critic_loss(
        policy,
        log_probs_TB * corrected.advantages_TB,
        values_TB[:-1],
        corrected.values_TB,
        valid_TB,
        config.value_coefficient,
        config.entropy_coefficient,
    )
    return Corrected(losses, mean(ratios_TB, valid_TB), mean((ratios_TB > config.rho_bar).float(), valid_TB))
