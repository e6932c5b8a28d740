"""ES: evolution strategies (Salimans 2017, algorithms 1 and 2).

    theta += step(1 / (N sigma) sum_i F_i e_i)       F_i: shaped return of theta + sigma e_i, e_i standard normal
Every environment plays whole episodes with parameters of its own, all of one actor's in one forward. Perturbations come
in antithetic pairs, +e and -e. What is sent is a seed and a return, so any number of parameters costs the same few
bytes; the learner makes e_i again from the seed. F are centred ranks, from -1/2 to 1/2, equal returns sharing theirs.

N = actors x envs_per_actor. Acting waits for learning (lag 0), so that theta is the same for all of a round. Discrete
actions are the most likely ones, boxes take the tanh of the output; the noise is in the parameters alone.

Differences from the paper: Adam's update comes from one process instead of every worker's own; no virtual batch norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.networks import PolicyNetwork
from core.rl.optim import Adam
from core.rl.perturbation import acting, episode_returns, gaussian, parameters, policy_network, put_gradient
from core.rl.settings import PolicySettings
from core.specs import EnvSpec
from core.types import Array, Columns, Context, Episodes, Lag, Plan, Policy, Queue, Result, Task


@dataclass(frozen=True)
class ESConfig(PolicySettings):
    """ES's settings."""

    sigma: float = bounded(0.1, above=0)
    """Deviation of the perturbations."""
    learning_rate: float = bounded(3e-2, above=0)
    """Adam's step size."""
    weight_decay: float = bounded(0.005, low=0)
    """Pulls the parameters towards 0."""
    hidden: tuple[int, ...] = bounded((32,), low=1)
    """Widths of the hidden layers; []: a linear policy."""
    episodes: int = bounded(1, low=1)
    """That every perturbation plays; their mean return counts."""
    max_rows: int = bounded(1000, low=1)
    """Episodes of a round are cut off after so many rows."""

    def contradictions(self) -> Iterable[str]:
        """What needs experience that never leaves the actors."""
        if self.normalise_observations:
            yield "normalise_observations: es's learner sees returns, no observations; leave it out, or use ppo"
        if self.shared_trunk:
            yield "shared_trunk: es learns no value; leave it out"


class ES:
    """The contract's six methods."""

    Config = ESConfig

    def __init__(self, config: ESConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Whole episodes, and nothing of them but a seed and a return; every round by one theta."""
        return Plan(Episodes(self.config.max_rows, self.config.episodes), Queue(), Lag(0))

    def network(self, spec: EnvSpec) -> PolicyNetwork:
        """A policy."""
        return policy_network(spec, self.config, "es")

    def policy(self, network: PolicyNetwork, task: Task) -> Policy:
        """The mode, with perturbed parameters where it explores."""
        size = len(parameters(network))

        def perturbations(B: int) -> Array:
            return self.config.sigma * np.stack([perturbation(seed, size) for seed in seeds(task, B).tolist()])

        return acting(network, perturbations if task.explore else None)

    def item(self, network: PolicyNetwork, unroll: Columns, task: Task) -> Columns:
        """Columns `seed`, int64, and `return`, float32 [1, B]."""
        found = episode_returns(unroll, self.config.episodes)
        return {"seed": seeds(task, found.shape[1])[None], "return": found}

    def state(self, network: PolicyNetwork) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: PolicyNetwork, state: Adam, batch: Batch, context: Context) -> Result:
        """One step up the estimated gradient."""
        config, theta = self.config, parameters(network)
        returns_N = batch["return"][0]
        gradient = estimate(batch["seed"][0], returns_N, len(theta), config.sigma).to(theta.device)
        put_gradient(network, config.weight_decay * theta - gradient)
        norm = state.descend(config.learning_rate)
        figures = torch.stack((returns_N.mean(), returns_N.max(), norm, theta.norm())).tolist()
        mean_return, best, grad_norm, length = figures
        metrics = {"loss": -mean_return, "population_best": best, "grad_norm": grad_norm, "parameter_norm": length}
        return Result(1, metrics)


def seeds(task: Task, B: int) -> Array:
    """The seeds [B], int64, of one actor's perturbations in that round: 2 s and 2 s + 1 are a pair, +e and -e."""
    pairs = task.rng().integers(1 << 61, size=-(-B // 2))
    return np.stack((2 * pairs, 2 * pairs + 1), -1).reshape(-1)[:B]


def perturbation(seed: int, size: int) -> Array:
    """E or -e [size], float32."""
    noise = gaussian(seed // 2, size)
    return -noise if seed % 2 else noise


def estimate(seeds_N: Tensor, returns_N: Tensor, size: int, sigma: float) -> Tensor:
    """1 / (N sigma) sum_i F_i e_i [size]. A pair's noise is made once."""
    shaped = centred_ranks(returns_N).cpu().numpy()
    of_pair: dict[int, float] = {}
    for seed, weight in zip(seeds_N.tolist(), shaped.tolist(), strict=True):
        of_pair[seed // 2] = of_pair.get(seed // 2, 0.0) + (-weight if seed % 2 else weight)
    total = np.zeros(size, np.float32)
    for pair, weight in of_pair.items():
        if weight:
            total += np.float32(weight) * gaussian(pair, size)
    return torch.from_numpy(total / (len(shaped) * sigma))


def centred_ranks(returns_N: Tensor) -> Tensor:
    """Ranks from -1/2 for the worst to 1/2 for the best; equal returns share the mean of their ranks."""
    n = len(returns_N)
    _, place, counts = torch.unique(returns_N, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    means = (last - 1 + last - counts).float() / 2
    ranks: Tensor = means[place]
    return ranks / max(1, n - 1) - 0.5
