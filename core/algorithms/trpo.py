"""TRPO: trust region policy optimisation (Schulman 2015).

    maximise   L(theta) = E[pi_theta(a|s) / pi_behaviour(a|s) A]    subject to   E[KL(pi_now || pi_theta)] <= delta
    s = F^-1 grad L             by conjugate gradients with damping (appendix C)
    step = sqrt(2 delta / s^T F s) s, shortened until L improves and KL <= delta; if it never does, nothing is changed
The ratio is against the probability that the actor recorded, so it is right at any lag; the trust region is around the
policy as it is now. A search that fails restores the parameters bit for bit and is counted (`search_failed`).

Differences from the paper: A from GAE and normalised, KL and Fisher matrix of a share of the environments
(`fisher_share`), the value fitted by Adam in minibatches instead of by a second natural step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.critic import fit_values
from core.rl.distributions import detached, divergence
from core.rl.losses import mean, normalised
from core.rl.mlp import twice_differentiable
from core.rl.natural import conjugate_gradient, fisher_product, gradient, line_search, policy_parameters
from core.rl.networks import ActorCritic
from core.rl.optim import Adam
from core.rl.precision import Precision
from core.rl.returns import gae
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Lag, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class TRPOConfig(OnPolicySettings):
    """TRPO's settings. `max_grad_norm` is not used: the step's length is given by `max_kl`."""

    precision: Precision = "float32"
    """Of images' layers; bfloat16 is too coarse for products with the Fisher matrix and a line search."""
    unroll_length: int = bounded(128, low=1)
    """Rows of one unroll."""
    max_kl: float = bounded(0.01, above=0)
    """Delta: the trust region's size in nats."""
    cg_iterations: int = bounded(15, low=1)
    """Conjugate gradients of one step."""
    damping: float = bounded(0.1, low=0)
    """Added to the diagonal of the Fisher matrix."""
    fisher_share: float = bounded(1.0, above=0, high=1)
    """Share of the environments whose rows make the Fisher matrix."""
    backtracks: int = bounded(10, low=1)
    """Lengths that the line search tries."""
    backtrack_factor: float = bounded(0.8, above=0, below=1)
    """Each is so much of the one before."""
    gae_lambda: float = bounded(0.97, low=0, high=1)
    """0: one-step advantages; 1: whole unrolls (Schulman 2016)."""
    value_epochs: int = bounded(10, low=1)
    """Passes over a batch that fit the value."""
    value_minibatch_size: int = bounded(128, low=1)
    """Rows of one of its minibatches."""
    learning_rate: float = bounded(1e-3, above=0)
    """Adam's step size for the value."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        yield from super().contradictions()
        if self.shared_trunk:
            yield "shared_trunk: a natural step moves the policy alone; it cannot share with the value: leave it out"


class TRPO:
    """The contract's six methods."""

    Config = TRPOConfig

    def __init__(self, config: TRPOConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Unrolls, each used once, acted by the version before the newest."""
        return Plan(Rows(self.config.unroll_length), Queue(), Lag(1))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a value of their own."""
        return ActorCritic(spec, self.config)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample; `log_prob` is recorded."""
        return sampling(network, task, self.config.unroll_length)

    def item(self, network: ActorCritic, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: ActorCritic) -> Adam:
        """Adam, for the value."""
        return Adam(network)

    def update(self, network: ActorCritic, state: Adam, batch: Batch, context: Context) -> Result:
        """One step of the policy within its trust region, and a fit of the value."""
        config, valid_TB = self.config, batch["valid"].float()
        with torch.no_grad():
            values_TB = network.values(batch)
            rewards_TB = network.rewards(batch)
            advantages_TB = gae(rewards_TB, batch["discount"], valid_TB, values_TB, config.gamma, config.gae_lambda)
        metrics = trust_region_step(config, network, batch, normalised(advantages_TB, valid_TB))
        steps, value_loss = fit_values(
            network,
            state,
            batch,
            advantages_TB + values_TB[:-1],
            context.rng,
            epochs=config.value_epochs,
            minibatch_size=config.value_minibatch_size,
            learning_rate=config.learning_rate,
        )
        network.observe(batch)
        return Result(steps + 1, {**metrics, "loss": float(value_loss), "value_loss": float(value_loss)})


def trust_region_step(
    config: TRPOConfig, network: ActorCritic, batch: Batch, advantages_TB: Tensor
) -> dict[str, float]:
    """Move the policy in place, or leave it as it is; metrics of either."""
    valid_TB, parameters = batch["valid"].float(), policy_parameters(network)
    actions = from_env(network.action, batch["action"])

    def surrogate() -> Tensor:
        ratios_TB = (network.policies(batch).log_prob(actions) - batch["log_prob"]).exp()
        return mean(ratios_TB * advantages_TB, valid_TB)

    with torch.no_grad():
        now = network.policies(batch)
        entropy = mean(now.entropy(), valid_TB)
    g = gradient(surrogate(), parameters)
    some = share_of(batch, config.fisher_share)
    with twice_differentiable():
        policy = network.policies(some)
        kl = mean(divergence(detached(policy), policy), some["valid"].float())
        product = fisher_product(kl, parameters, config.damping)
    direction = conjugate_gradient(product, g, config.cg_iterations)
    curvature = torch.dot(direction, product(direction))
    step = torch.sqrt(2 * config.max_kl / curvature.clamp(min=1e-12)) * direction
    found = line_search(
        parameters,
        step,
        lambda: (surrogate(), mean(divergence(now, network.policies(batch)), valid_TB)),
        config.max_kl,
        config.backtracks,
        config.backtrack_factor,
    )
    entropy_now, norm = torch.stack((entropy, g.norm())).tolist()
    return {
        "entropy": entropy_now,
        "grad_norm": norm,
        "kl": found.kl,
        "surrogate_gain": found.gain,
        "step_share": found.share,
        "search_failed": float(found.share == 0),
    }


def share_of(batch: Batch, share: float) -> Mapping[str, Tensor]:
    """Every so many of the batch's environments, at least one."""
    if share == 1:
        return batch
    B = batch["valid"].shape[1]
    chosen = torch.linspace(0, B - 1, max(1, round(share * B)), device=batch["valid"].device).long()
    return {name: column[:, chosen] for name, column in batch.items()}
