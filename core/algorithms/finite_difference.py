"""Finite differences: the gradient of the return, one direction at a time (Peters 2008, section 3.1).

    g_u = (J(theta + h u) - J(theta - h u)) / 2h          J: the mean return of whole episodes
    theta += learning_rate g / |g|
`directions: coordinate` takes u along one parameter after the other; the actors' environments sweep them together, in
pairs of + and -, and a step is made when every parameter has been tried. `random` takes Gaussian u and solves
    g = argmin_g sum_u (g_u - u^T g)^2
for the pairs of each round. Nothing is assumed of the policy, not even that it has a gradient; the price grows with the
number of parameters, so the default policy is linear.

Acting waits for learning (lag 0), so that theta is the same for all of a round. The two sides of a pair do not share an
environment's randomness: resets are the environments' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.algorithms.es import perturbation, seeds
from core.fields import bounded
from core.rl.networks import PolicyNetwork
from core.rl.perturbation import acting, episode_returns, parameters, policy_network
from core.rl.settings import PolicySettings
from core.specs import EnvSpec
from core.types import Array, Columns, Context, Episodes, Lag, Plan, Policy, Queue, Result, Task


@dataclass(frozen=True)
class FiniteDifferenceConfig(PolicySettings):
    """Settings of finite differences."""

    directions: Literal["coordinate", "random"] = "coordinate"
    """One parameter after the other, or all of them at random."""
    step: float = bounded(0.1, above=0)
    """h: how far a difference reaches."""
    learning_rate: float = bounded(0.1, above=0)
    """Length of a step."""
    hidden: tuple[int, ...] = bounded((), low=1)
    """Widths of the hidden layers; []: a linear policy."""
    episodes: int = bounded(1, low=1)
    """That every environment plays; their mean return counts."""
    max_rows: int = bounded(1000, low=1)
    """Episodes of a round are cut off after so many rows."""

    def contradictions(self) -> Iterable[str]:
        """What needs experience that never leaves the actors."""
        if self.normalise_observations:
            yield "normalise_observations: the learner sees returns, no observations; leave it out, or use ppo"
        if self.shared_trunk:
            yield "shared_trunk: finite_difference learns no value; leave it out"


class State:
    """Differences of the sweep that is under way: their sums and how many there are, by parameter."""

    def __init__(self, size: int) -> None:
        self.sums, self.counts = torch.zeros(size), torch.zeros(size)

    def state_dict(self) -> dict[str, Any]:
        """Copies."""
        return {"sums": self.sums.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; KeyError or ValueError where it is another network's."""
        for name, tensor in (("sums", self.sums), ("counts", self.counts)):
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} has {list(state[name].shape)}, this takes {list(tensor.shape)}")
            tensor.copy_(state[name])


class FiniteDifference:
    """The contract's six methods."""

    Config = FiniteDifferenceConfig

    def __init__(self, config: FiniteDifferenceConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Whole episodes, and nothing of them but a direction and a return; every round by one theta."""
        return Plan(Episodes(self.config.max_rows, self.config.episodes), Queue(), Lag(0))

    def network(self, spec: EnvSpec) -> PolicyNetwork:
        """A policy."""
        return policy_network(spec, self.config, "finite_difference")

    def policy(self, network: PolicyNetwork, task: Task) -> Policy:
        """The mode, with every environment's parameters moved along its direction where it explores."""
        size = len(parameters(network))

        def perturbations(B: int) -> Array:
            return np.float32(self.config.step) * self.unit(self.directions(task, B, size), size)

        return acting(network, perturbations if task.explore else None)

    def item(self, network: PolicyNetwork, unroll: Columns, task: Task) -> Columns:
        """Columns `direction`, int64, and `return`, float32 [1, B]."""
        found = episode_returns(unroll, self.config.episodes)
        return {"direction": self.directions(task, found.shape[1], len(parameters(network)))[None], "return": found}

    def state(self, network: PolicyNetwork) -> State:
        """An empty sweep."""
        return State(len(parameters(network)))

    @torch.no_grad()
    def update(self, network: PolicyNetwork, state: State, batch: Batch, context: Context) -> Result:
        """Take the differences in; a step where they are enough for one."""
        theta, returns_N = parameters(network), batch["return"][0].cpu()
        found, differences = pairs(batch["direction"][0].cpu(), returns_N, self.config.step)
        if self.config.directions == "random":
            directions = torch.from_numpy(self.unit(2 * found.numpy(), len(theta)))
            gradient = torch.linalg.lstsq(directions, differences.unsqueeze(1), driver="gelsd").solution.squeeze(1)
            complete = len(differences) > 0
        else:
            state.sums.index_add_(0, found, differences)
            state.counts.index_add_(0, found, torch.ones_like(differences))
            complete = bool(state.counts.min() > 0)
            gradient = state.sums / state.counts.clamp(min=1)
        norm = float(gradient.norm())
        if complete:
            self._step(network, gradient / max(norm, 1e-12) * self.config.learning_rate)
            state.sums.zero_()
            state.counts.zero_()
        metrics = {"loss": -float(returns_N.mean()), "grad_norm": norm, "parameter_norm": float(theta.norm())}
        return Result(int(complete), metrics)

    def _step(self, network: PolicyNetwork, step: Tensor) -> None:
        params = network.actor.params()
        for p, part in zip(params, step.split([p.numel() for p in params]), strict=True):
            p += part.view_as(p).to(p.device)

    def directions(self, task: Task, B: int, size: int) -> Array:
        """Which way each environment goes [B], int64: 2 d and 2 d + 1 are + and - along d, a parameter or a seed."""
        if self.config.directions == "random":
            return seeds(task, B)
        pairs_each = -(-B // 2)
        first = (task.round * task.slots + task.slot) * pairs_each
        index = (first + np.arange(B) // 2) % size
        return 2 * index + np.arange(B) % 2

    def unit(self, directions_N: Array, size: int) -> Array:
        """U or -u [N, size], float32."""
        if self.config.directions == "random":
            return np.stack([perturbation(seed, size) for seed in directions_N.tolist()])
        moved = np.zeros((len(directions_N), size), np.float32)
        moved[np.arange(len(directions_N)), directions_N // 2] = np.where(directions_N % 2, -1, 1)
        return moved


def pairs(directions_N: Tensor, returns_N: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Directions [M], int64, with both sides at hand, and their central differences [M]; the rest goes unused.

    Sides that were played several times are averaged.
    """
    found, place = torch.unique(directions_N // 2, return_inverse=True)
    sums, counts = torch.zeros(2, len(found)), torch.zeros(2, len(found))
    side = directions_N % 2
    sums.index_put_((side, place), returns_N, accumulate=True)
    counts.index_put_((side, place), torch.ones_like(returns_N), accumulate=True)
    both = counts.amin(0) > 0
    means = sums[:, both] / counts[:, both]
    return found[both], (means[0] - means[1]) / (2 * step)
