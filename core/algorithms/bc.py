"""BC: behavioural cloning, maximum likelihood of an expert's actions (Pomerleau 1989).

    loss = -E[log pi(a|s)]        (s, a) from a dataset; with a deterministic policy E[(pi(s) - a)^2]
Softmax policies learn by cross-entropy, Gaussian ones by their log-likelihood. The dataset is a Minari one; `shoal
collect` makes them from a run. Actors stream their share of its episodes, over and over, into a table that keeps
everything; the learner draws uniformly. Env steps are rows of the dataset, those of later passes counted again.

What it learns holds on the states that the expert visits; where its own mistakes lead elsewhere, dagger asks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.datasets import open_fitting
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.distributions import Deterministic
from core.rl.losses import mean
from core.rl.networks import PolicyNetwork
from core.rl.optim import Adam
from core.rl.schedules import linear
from core.rl.settings import PolicySettings
from core.specs import EnvSpec
from core.types import Async, Columns, Context, Plan, Policy, Recorded, Replay, Result, Task


@dataclass(frozen=True)
class ImitationSettings(PolicySettings):
    """What bc and dagger have in common."""

    unroll_length: int = bounded(32, low=1)
    """Rows that an actor sends at a time."""
    batch_size: int = bounded(256, low=1)
    """Rows of one update."""
    min_size: int = bounded(1000, low=1)
    """Rows before the first update."""
    updates_per_env_step: float = bounded(0.05, above=0)
    """The rate limiter keeps this ratio."""
    batches_per_round: int = bounded(16, low=1)
    """Updates between two published versions."""
    learning_rate: float = bounded(1e-3, above=0)
    """Adam's step size."""
    anneal_learning_rate: bool = True
    """Linearly to 0 at the end of the budget."""
    entropy_coefficient: float = bounded(0.0, low=0)
    """Weight of an entropy bonus."""
    max_grad_norm: float | None = bounded(None, above=0)
    """The gradient's norm is clipped to it; null: never."""

    def contradictions(self) -> Iterable[str]:
        """What single rows cannot teach."""
        if self.recurrent is not None:
            yield "recurrent: imitation learns from single rows, which need no memory; leave it out"
        if self.shared_trunk:
            yield "shared_trunk: there is no value to share it with; leave it out"


@dataclass(frozen=True)
class BCConfig(ImitationSettings):
    """BC's settings."""

    dataset: str = ""
    """Name of a Minari dataset, such as cartpole/expert-v0."""

    def contradictions(self) -> Iterable[str]:
        """A dataset must be named."""
        yield from super().contradictions()
        if not self.dataset:
            yield "dataset: must name a Minari dataset; `shoal collect RUN --out cartpole/expert-v0` makes one"


class BC:
    """The contract's six methods."""

    Config = BCConfig

    def __init__(self, config: BCConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """The dataset's rows into a table that keeps everything."""
        config = self.config
        return Plan(Recorded(config.dataset, config.unroll_length), kept(config), Async())

    def network(self, spec: EnvSpec) -> PolicyNetwork:
        """A policy. Raises ConfigError where the dataset is of another kind of environment."""
        open_fitting(self.config.dataset, spec)
        return PolicyNetwork(spec, self.config)

    def policy(self, network: PolicyNetwork, task: Task) -> Policy:
        """For evaluation; the dataset's actors do not act."""
        return sampling(network, task, self.config.unroll_length, record=False)

    def item(self, network: PolicyNetwork, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: PolicyNetwork) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: PolicyNetwork, state: Adam, batch: Batch, context: Context) -> Result:
        """One step for every `batch_size` rows."""
        return imitate(self.config, network, state, batch, context)


def kept(config: ImitationSettings) -> Replay:
    """A uniform table that never evicts."""
    return Replay(
        capacity=0,
        batch_size=config.batch_size,
        min_size=max(config.min_size, config.batch_size),
        updates_per_env_step=config.updates_per_env_step,
        batches_per_round=config.batches_per_round,
        evict=False,
    )


def imitate(config: ImitationSettings, network: PolicyNetwork, state: Adam, batch: Batch, context: Context) -> Result:
    """One optimiser step for every `batch_size` columns of the windows [1, K x batch_size]."""
    end = 0.0 if config.anneal_learning_rate else config.learning_rate
    learning_rate = linear(config.learning_rate, end, context.progress)
    size = config.batch_size
    actions = from_env(network.action, batch["action"][0])
    columns = (batch["obs"][0], actions, batch["valid"][0].float())
    made = []
    for obs_N, actions_N, valid_N in zip(*(column.split(size) for column in columns), strict=True):
        losses_N, entropy = losses(network, obs_N, actions_N)
        loss = mean(losses_N, valid_N) - config.entropy_coefficient * mean(entropy, valid_N)
        norm = state.step(loss, learning_rate, config.max_grad_norm)
        made.append(torch.stack((loss.detach(), mean(entropy.detach(), valid_N), norm)))
    network.observe(batch)
    metrics = dict(zip(("loss", "entropy", "grad_norm"), torch.stack(made).mean(0).tolist(), strict=True))
    return Result(len(made), {**metrics, "learning_rate": learning_rate})


def losses(network: PolicyNetwork, obs_N: Tensor, actions_N: Tensor) -> tuple[Tensor, Tensor]:
    """How badly each of N actions is predicted, and the policy's entropy there."""
    policy = network.policy(obs_N)
    if isinstance(policy, Deterministic):
        return policy.distance(actions_N), policy.entropy()
    return -policy.log_prob(actions_N), policy.entropy()
