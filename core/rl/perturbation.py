"""Policies whose parameters are perturbed, every environment's by its own: all of them act in one forward. Pure.

A perturbation is made from a seed, so that actors send the seed and the learner makes the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core.errors import ConfigError
from core.rl.acting import to_env
from core.rl.distributions import Distribution
from core.rl.mlp import PLAIN
from core.rl.networks import PolicyNetwork
from core.rl.settings import PolicySettings
from core.specs import EnvSpec
from core.types import Array, Columns, Policy, Step


def policy_network(spec: EnvSpec, settings: PolicySettings, algorithm: str) -> PolicyNetwork:
    """A policy that acts by its mode. Raises ConfigError where something besides the MLP would have to be perturbed."""
    if spec.action.kind == "box" and settings.distribution == "auto":
        settings = replace(settings, distribution="deterministic")
    network = PolicyNetwork(spec, settings)
    if len(list(network.parameters())) > len(network.actor.params()):
        raise ConfigError(
            f"{algorithm}: perturbs the layers of an MLP behind features without parameters, and this network has "
            "convolutions, a memory or a deviation of its own; leave network, recurrent and distribution at their "
            "defaults, or use ppo"
        )
    return network


def gaussian(seed: int, size: int) -> Array:
    """Standard normal numbers [size], float32, of that seed."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(size, np.float32)


def parameters(network: PolicyNetwork) -> Tensor:
    """The policy's numbers [P], a copy."""
    return torch.cat([p.detach().reshape(-1) for p in network.actor.params()])


def put_gradient(network: PolicyNetwork, gradient: Tensor) -> None:
    """Copy [P] numbers into the parameters' gradients, for an `Optimiser` of this network to descend."""
    params = network.actor.params()
    for p, part in zip(params, gradient.split([p.numel() for p in params]), strict=True):
        if p.grad is None:
            raise ValueError("the network has no optimiser yet")
        p.grad.copy_(part.view_as(p))


class Population:
    """B policies, the b-th with parameters [P] of its own."""

    def __init__(self, network: PolicyNetwork, parameters_BP: Tensor) -> None:
        self._network = network
        shapes: Sequence[torch.Size] = [p.shape for p in network.actor.params()]
        parts = parameters_BP.split([shape.numel() for shape in shapes], -1)
        views = [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        self._layers = list(zip(views[::2], views[1::2], strict=True))

    def __call__(self, obs: Tensor) -> Distribution:
        """The distribution [B] of row `obs` [B, ...]."""
        x = self._network.body(obs).unsqueeze(-1)
        for i, (weight, bias) in enumerate(self._layers):
            x = torch.baddbmm(bias.unsqueeze(-1), weight, x)
            if i < len(self._layers) - 1:
                x = PLAIN[self._network.actor.activation](x)
        distribution: Distribution = self._network.head(x.squeeze(-1), obs)
        return distribution


def acting(network: PolicyNetwork, perturbations: Callable[[int], Array] | None) -> Policy:
    """Act by the mode; with `perturbations`, a function from B to what is added to the parameters, [B, P]."""
    made: list[Population] = []

    def policy(obs: Array, memory: object) -> Step:
        with torch.inference_mode():
            observed = torch.from_numpy(obs)
            if perturbations is None:
                distribution = network.policy(observed)
            else:
                if not made:
                    made.append(Population(network, parameters(network) + torch.from_numpy(perturbations(len(obs)))))
                distribution = made[0](observed)
            return Step(to_env(network.action, distribution.mode()).numpy(), {}, memory)

    return policy


def episode_returns(unroll: Columns, episodes: int) -> Array:
    """Mean return [1, B], float32, of the whole episodes of an unroll."""
    returns: Array = (unroll["valid"] * unroll["reward"]).sum(0, keepdims=True, dtype=np.float64) / episodes
    return returns.astype(np.float32)
