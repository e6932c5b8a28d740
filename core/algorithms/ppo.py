"""PPO: proximal policy optimisation with a clipped ratio (Schulman 2017).

With r = pi(a|s) / pi_behaviour(a|s), advantage A from GAE and clip range e:
    policy loss   -E[min(r A, clip(r, 1 - e, 1 + e) A)]                        (eq. 7)
    total loss    policy loss + c_v E[(V(s) - target)^2] - c_e E[entropy]      (eq. 9)
Every batch is passed over `epochs` times in minibatches; all means are over valid rows only.

Differences from the paper, all usual in practice (Engstrom 2020, Andrychowicz 2021) and each a setting: advantages are
normalised per minibatch, the gradient's norm is clipped, learning rate, clip range and entropy bonus may anneal to 0,
the value may be clipped around the one that made the advantages, advantages may be computed anew for every epoch, and
epochs may stop early once the policy has moved by `target_kl`. The
behaviour log-probability is the one that the actor recorded, never recomputed, so the ratio is right at any lag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.distributions import Distribution
from core.rl.networks import ActorCritic
from core.rl.optim import Adam
from core.rl.returns import gae
from core.rl.schedules import linear
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Lag, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class PPOConfig(OnPolicySettings):
    """PPO's settings."""

    unroll_length: int = bounded(64, low=1)
    """Rows of one unroll."""
    epochs: int = bounded(4, low=1)
    """Passes over a batch."""
    minibatch_size: int = bounded(2048, low=1)
    """Rows of one minibatch, rows that are no steps included; the last one of an epoch may be smaller."""
    learning_rate: float = bounded(3e-4, above=0)
    """Adam's step size."""
    anneal_learning_rate: bool = False
    """Linearly to 0 at the end of the budget."""
    gae_lambda: float = bounded(0.95, low=0, high=1)
    """0: one-step advantages, little variance; 1: whole unrolls, no bias (Schulman 2016)."""
    clip: float = bounded(0.2, above=0)
    """How far the ratio may gain from leaving 1."""
    anneal_clip: bool = False
    """Linearly to 0 at the end of the budget."""
    clip_value: float | None = bounded(None, above=0)
    """Keep the value within this distance of the one that made the advantages."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the value loss."""
    entropy_coefficient: float = bounded(0.01, low=0)
    """Weight of the entropy bonus."""
    anneal_entropy: bool = False
    """Linearly to 0 at the end of the budget."""
    normalise_advantages: bool = True
    """To mean 0 and deviation 1 over each minibatch."""
    recompute_advantages: bool = False
    """Anew before every epoch, by the value as it is then (Andrychowicz 2021), or once a batch."""
    target_kl: float | None = bounded(None, above=0)
    """No further epoch once the mean estimate of KL(behaviour, target) in the last one is above this."""
    adam_eps: float = bounded(1e-5, above=0)
    """Adam's epsilon."""


class Minibatch(NamedTuple):
    """Columns of N rows; before they are split, of all T x B rows of a batch."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    value_targets: Tensor
    values: Tensor
    valid: Tensor


class Terms(NamedTuple):
    """The parts of a loss: three scalars, and log(target / behaviour probability) [N]."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    log_ratios: Tensor


class Made(NamedTuple):
    """What is kept of a minibatch's update for the metrics."""

    valid: Tensor
    loss: Tensor
    terms: Terms
    grad_norm: Tensor


class PPO:
    """The contract's six methods."""

    Config = PPOConfig

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Unrolls, each used once, acted by the version before the newest."""
        return Plan(Rows(self.config.unroll_length), Queue(), Lag(1))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a value."""
        return ActorCritic(spec, self.config)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample; `log_prob` is recorded."""
        return sampling(network, task, self.config.unroll_length)

    def item(self, network: ActorCritic, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: ActorCritic) -> Adam:
        """Adam."""
        return Adam(network, eps=self.config.adam_eps)

    def update(self, network: ActorCritic, state: Adam, batch: Batch, context: Context) -> Result:
        """`epochs` passes over the batch, one optimiser step a minibatch; metrics are those of the last epoch."""
        config = annealed(self.config, context.progress)
        learning_rate = falling(config.learning_rate, config.anneal_learning_rate, context.progress)
        rows = prepare(config, network, batch)
        updates = 0
        for epoch in range(config.epochs):
            if epoch and config.recompute_advantages:
                rows = prepare(config, network, batch)
            made: list[Made] = []
            for minibatch, policy, values_N in minibatches(config, network, batch, rows, context.rng):
                total, terms = loss(config, policy, values_N, minibatch)
                norm = state.step(total, learning_rate, config.max_grad_norm)
                made.append(Made(minibatch.valid, total.detach(), terms, norm))
            updates += len(made)
            if config.target_kl is not None and figures(config, made)["kl"] > config.target_kl:
                break
        network.observe(batch)
        metrics = figures(config, made)
        metrics["explained_variance"] = explained_variance(rows)
        metrics["learning_rate"] = learning_rate
        return Result(updates, metrics)


def falling(start: float, falls: bool, progress: float) -> float:
    """`start`, or where it falls, linearly to 0 at the end of the budget."""
    return linear(start, 0.0, progress) if falls else start


def annealed(config: PPOConfig, progress: float) -> PPOConfig:
    """The loss's settings at that share of the budget; a clip range stays just above 0."""
    if not (config.anneal_clip or config.anneal_entropy):
        return config
    return replace(
        config,
        clip=max(1e-9, falling(config.clip, config.anneal_clip, progress)),
        entropy_coefficient=falling(config.entropy_coefficient, config.anneal_entropy, progress),
    )


def minibatches(
    config: PPOConfig, network: ActorCritic, batch: Batch, rows: Minibatch, rng: np.random.Generator
) -> Iterator[tuple[Minibatch, Distribution, Tensor]]:
    """One pass in random order: minibatches, with the policy and the values [N] that the network has when asked.

    Without a memory rows are shuffled. With one an environment's whole unroll stays together, and the memory is
    computed anew from the recorded one of its first row.
    """
    if not network.memory:
        order = torch.from_numpy(rng.permutation(len(rows.valid))).to(rows.valid.device)
        shuffled = (column.index_select(0, order).split(config.minibatch_size) for column in rows)
        for minibatch in map(Minibatch, *shuffled):
            yield minibatch, *network(minibatch.obs)
        return
    T, B = batch["valid"].shape
    columns = torch.from_numpy(rng.permutation(B)).to(rows.valid.device)
    for chosen in columns.split(max(1, config.minibatch_size // T)):
        unrolls = Minibatch(*(column.unflatten(0, (T, B)).index_select(1, chosen) for column in rows))
        policy, values_N = network.along(unrolls.obs, batch["memory"][0].index_select(0, chosen), unrolls.valid)
        yield Minibatch(*(column.flatten(0, 1) for column in unrolls)), policy, values_N


def loss(config: PPOConfig, policy: Distribution, values_N: Tensor, minibatch: Minibatch) -> tuple[Tensor, Terms]:
    """The total loss, and its parts without gradient, of a policy and values at the minibatch's N rows."""
    weights_N = minibatch.valid / minibatch.valid.sum().clamp(min=1)
    advantages_N = minibatch.advantages
    if config.normalise_advantages:
        centred_N = advantages_N - torch.dot(weights_N, advantages_N)
        advantages_N = centred_N / (torch.dot(weights_N, centred_N.square()).sqrt() + 1e-8)
    log_ratios_N = policy.log_prob(minibatch.actions) - minibatch.log_probs
    ratios_N = log_ratios_N.exp()
    clipped_N = ratios_N.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = -torch.dot(weights_N, torch.minimum(ratios_N * advantages_N, clipped_N * advantages_N))
    errors_N = (values_N - minibatch.value_targets).square()
    if config.clip_value is not None:
        near_N = minibatch.values + (values_N - minibatch.values).clamp(-config.clip_value, config.clip_value)
        errors_N = torch.maximum(errors_N, (near_N - minibatch.value_targets).square())
    value_loss = torch.dot(weights_N, errors_N)
    entropy = torch.dot(weights_N, policy.entropy())
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, Terms(policy_loss.detach(), value_loss.detach(), entropy.detach(), log_ratios_N.detach())


@torch.no_grad()
def prepare(config: PPOConfig, network: ActorCritic, batch: Batch) -> Minibatch:
    """Advantages and value targets of a batch of unrolls, and all columns with their T x B rows in one axis."""
    obs, valid_TB = batch["obs"], batch["valid"].float()
    values_TB = network.values(batch)
    rewards_TB = network.rewards(batch)
    advantages_TB = gae(rewards_TB, batch["discount"], valid_TB, values_TB, config.gamma, config.gae_lambda)
    columns = Minibatch(
        obs=obs[:-1],
        actions=from_env(network.action, batch["action"]),
        log_probs=batch["log_prob"],
        advantages=advantages_TB,
        value_targets=advantages_TB + values_TB[:-1],
        values=values_TB[:-1],
        valid=valid_TB,
    )
    return Minibatch(*(column.flatten(0, 1) for column in columns))


def figures(config: PPOConfig, made: list[Made]) -> dict[str, float]:
    """Means over minibatches; the one place that waits for the device."""
    rows = []
    for valid, total, terms, norm in made:
        weights = valid / valid.sum().clamp(min=1)
        ratios = terms.log_ratios.exp()
        kl = torch.dot(weights, ratios - 1 - terms.log_ratios)
        clipped = torch.dot(weights, ((ratios - 1).abs() > config.clip).float())
        rows.append(torch.stack((total, terms.policy_loss, terms.value_loss, terms.entropy, kl, clipped, norm)))
    names = ("loss", "policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "grad_norm")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))


def explained_variance(rows: Minibatch) -> float:
    """1 - Var[target - V] / Var[target] over valid rows: 1 is a perfect value, 0 is as good as a constant."""
    weights = rows.valid / rows.valid.sum().clamp(min=1)

    def variance(x: Tensor) -> Tensor:
        return torch.dot(weights, (x - torch.dot(weights, x)).square())

    return float(1 - variance(rows.value_targets - rows.values) / variance(rows.value_targets).clamp(min=1e-8))
