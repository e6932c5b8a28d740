"""NPG: the natural policy gradient (Kakade 2001; the step's length from Rajeswaran 2017).

    g = grad E[log pi(a|s) A]        A from GAE, normalised
    theta += sqrt(2 delta / g^T F^-1 g) F^-1 g
F is the policy's Fisher matrix; F^-1 g comes from conjugate gradients on Fisher-vector products. To second order the
step moves the policy by KL = delta, whatever the parameters are; nothing checks that it did, which is what trpo adds.

Acting waits for learning (lag 0): g is a gradient of the policy that acted. The value is fitted by Adam in minibatches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.critic import fit_values
from core.rl.distributions import detached, divergence
from core.rl.losses import mean, normalised
from core.rl.mlp import twice_differentiable
from core.rl.natural import assign, conjugate_gradient, fisher_product, gradient, policy_parameters, vector
from core.rl.networks import ActorCritic
from core.rl.optim import Adam
from core.rl.precision import Precision
from core.rl.returns import gae
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Lag, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class NPGConfig(OnPolicySettings):
    """NPG's settings. `max_grad_norm` is not used: the step's length is given by `max_kl`."""

    precision: Precision = "float32"
    """Of images' layers; bfloat16 is too coarse for products with the Fisher matrix and a line search."""
    unroll_length: int = bounded(128, low=1)
    """Rows of one unroll."""
    max_kl: float = bounded(0.01, above=0)
    """Delta: how far a step moves the policy, to second order, in nats."""
    cg_iterations: int = bounded(10, low=1)
    """Conjugate gradients of one step."""
    damping: float = bounded(0.1, low=0)
    """Added to the diagonal of the Fisher matrix."""
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


class NPG:
    """The contract's six methods."""

    Config = NPGConfig

    def __init__(self, config: NPGConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Unrolls, each used once, acted by the policy that is being trained."""
        return Plan(Rows(self.config.unroll_length), Queue(), Lag(0))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a value of their own."""
        return ActorCritic(spec, self.config)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample."""
        return sampling(network, task, self.config.unroll_length, record=False)

    def item(self, network: ActorCritic, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: ActorCritic) -> Adam:
        """Adam, for the value."""
        return Adam(network)

    def update(self, network: ActorCritic, state: Adam, batch: Batch, context: Context) -> Result:
        """One natural step of the policy, and a fit of the value."""
        config, valid_TB = self.config, batch["valid"].float()
        with torch.no_grad():
            values_TB = network.values(batch)
            rewards_TB = network.rewards(batch)
            advantages_TB = gae(rewards_TB, batch["discount"], valid_TB, values_TB, config.gamma, config.gae_lambda)
        metrics = natural_step(config, network, batch, normalised(advantages_TB, valid_TB))
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


def natural_step(
    config: NPGConfig, network: ActorCritic, batch: Batch, advantages_TB: torch.Tensor
) -> dict[str, float]:
    """Move the policy in place; its metrics."""
    valid_TB, parameters = batch["valid"].float(), policy_parameters(network)
    policy = network.policies(batch)
    log_probs_TB = policy.log_prob(from_env(network.action, batch["action"]))
    g = gradient(mean(log_probs_TB * advantages_TB, valid_TB), parameters)
    with twice_differentiable():
        policy = network.policies(batch)
        fixed = detached(policy)
        product = fisher_product(mean(divergence(fixed, policy), valid_TB), parameters, config.damping)
    direction = conjugate_gradient(product, g, config.cg_iterations)
    length = torch.sqrt(2 * config.max_kl / torch.dot(g, direction).clamp(min=1e-12))
    step = length * direction
    assign(parameters, vector(parameters) + step)
    with torch.no_grad():
        kl = mean(divergence(fixed, network.policies(batch)), valid_TB)
    names = ("entropy", "kl", "grad_norm", "step_norm")
    found = torch.stack((mean(fixed.entropy(), valid_TB), kl, g.norm(), step.norm()))
    return dict(zip(names, found.tolist(), strict=True))
