"""A3C and asynchronous n-step Q-learning: actors compute gradients, the learner applies them as they come (Mnih 2016).

    each actor, for ever: copy theta, roll t_max rows, d = gradient of the loss at theta, send d
    the learner: g = a g + (1 - a) d^2, theta -= lr d / sqrt(g + eps), for every d as it comes; g is shared
    head actor_critic (algorithm S3)   loss = -E[log pi(a|s) (R - V(s))] + c_v E[(R - V(s))^2] - c_e E[entropy]
    head q (algorithms S1 and S2)      loss = E[(R - Q(s, a))^2], R from max_a Q(s, a; theta-)
R sums rewards to the unroll's end; with `trace_decay` below 1 shorter sums count more, and 0 is one-step Q-learning.
What is sent is the gradient and a few figures, never experience. An actor takes fresh weights once its own gradient was
applied; meanwhile those of others were, so gradients are stale, by as many updates as `staleness` in a run's figures.

theta- is part of the network, follows every `target_update_interval` env steps, and is published with it. With head q
every actor anneals epsilon to an end of its own, 0.1, 0.01 or 0.5 with probabilities 0.4, 0.3 and 0.3 (section 5.1).

Differences from the paper: actors are processes that may step several environments, whose rows make one gradient; means
over rows instead of sums; g begins at 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import epsilon_greedy, from_env, sampling
from core.rl.losses import Losses, actor_critic_loss, mean
from core.rl.networks import ActorCritic
from core.rl.optim import RMSProp, flat_gradient
from core.rl.qnetworks import QNetwork
from core.rl.returns import gae
from core.rl.schedules import linear
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Async, Columns, Context, Plan, Policy, Queue, Result, Rows, Task

LAST_EPSILONS, SHARES = (0.1, 0.01, 0.5), (0.4, 0.3, 0.3)
FIGURES = ("loss", "policy_loss", "value_loss", "entropy")


@dataclass(frozen=True)
class A3CConfig(OnPolicySettings):
    """A3C's settings."""

    unroll_length: int = bounded(20, low=1)
    """t_max: rows of one gradient."""
    head: Literal["actor_critic", "q"] = "actor_critic"
    """A policy and a value, or action values."""
    max_staleness: int | None = bounded(None, low=0)
    """Gradients of a version older than this are dropped and counted; null: none are."""
    learning_rate: float = bounded(7e-4, above=0)
    """RMSProp's step size."""
    anneal_learning_rate: bool = True
    """Linearly to 0 at the end of the budget."""
    rmsprop_decay: float = bounded(0.99, above=0, below=1)
    """a: how long squared gradients are remembered."""
    rmsprop_eps: float = bounded(1e-5, above=0)
    """Added under RMSProp's root."""
    trace_decay: float = bounded(1.0, low=0, high=1)
    """1: sums to the unroll's end; 0: one step."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the value loss; head actor_critic."""
    entropy_coefficient: float = bounded(0.01, low=0)
    """Weight of the entropy bonus; head actor_critic."""
    target_update_interval: int = bounded(10_000, low=1)
    """Env steps between copies into the target network; head q."""
    epsilon_anneal_env_steps: int = bounded(50_000, low=1)
    """Env steps of the run over which epsilon falls from 1 to the actor's own end; head q."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        yield from super().contradictions()
        for name in ("normalise_observations", "normalise_rewards"):
            if getattr(self, name):
                yield f"{name}: a3c's learner sees gradients, no experience to make statistics of; use a2c or impala"
        if self.head == "q" and (self.recurrent is not None or self.shared_trunk):
            yield "head: q has neither a memory nor a trunk to share; leave recurrent and shared_trunk out"


class OnlineAndTarget(nn.Module):
    """Action values and the copy of them that targets come from. The online parameters stand first."""

    def __init__(self, spec: EnvSpec, config: A3CConfig) -> None:
        super().__init__()
        self.online = QNetwork(spec, config, dueling=False)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def follow(self) -> None:
        """Copy the online parameters."""
        self.target.load_state_dict(self.online.state_dict())


Network = ActorCritic | OnlineAndTarget


class State:
    """The shared RMSProp, and the env steps at which the target network followed last."""

    def __init__(self, network: Network, config: A3CConfig) -> None:
        self.optimiser = RMSProp(network, config.rmsprop_eps, config.rmsprop_decay)
        self.followed_env_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Copies."""
        return {"optimiser": self.optimiser.state_dict(), "followed_env_steps": self.followed_env_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; KeyError or ValueError where it is another network's."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.followed_env_steps = int(state["followed_env_steps"])


class A3C:
    """The contract's six methods."""

    Config = A3CConfig

    def __init__(self, config: A3CConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Gradients, applied one by one; an actor goes on once its own was."""
        return Plan(Rows(self.config.unroll_length), Queue(), Async(self.config.max_staleness, own_applied=True))

    def network(self, spec: EnvSpec) -> Network:
        """A policy and a value, or action values and their target."""
        if self.config.head == "q":
            return OnlineAndTarget(spec, self.config)
        return ActorCritic(spec, self.config)

    def policy(self, network: Network, task: Task) -> Policy:
        """Sample, or epsilon-greedy with the actor's own epsilon."""
        rows = self.config.unroll_length
        if isinstance(network, ActorCritic):
            return sampling(network, task, rows, record=False)
        return epsilon_greedy(network.online, task, self.epsilon(task), rows)

    def item(self, network: Network, unroll: Columns, task: Task) -> Columns:
        """The gradient [1, 1, parameters] of the unroll's loss, and the loss's figures [1, 1]."""
        batch = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in unroll.items()}
        losses = loss(self.config, network, batch)
        learned = network if isinstance(network, ActorCritic) else network.online
        gradient = flat_gradient(losses.total, network, learned)
        figures = torch.stack((losses.total.detach(), *losses[1:])).numpy()
        columns = {name: figures[i].reshape(1, 1) for i, name in enumerate(FIGURES)}
        return {"gradient": gradient.numpy().reshape(1, 1, -1), **columns}

    def state(self, network: Network) -> State:
        """The shared RMSProp."""
        return State(network, self.config)

    def update(self, network: Network, state: State, batch: Batch, context: Context) -> Result:
        """Apply every gradient of the batch, in order."""
        config, optimiser = self.config, state.optimiser
        end = 0.0 if config.anneal_learning_rate else config.learning_rate
        learning_rate = linear(config.learning_rate, end, context.progress)
        norms = []
        for gradient in batch["gradient"][0]:
            optimiser.gradient[: len(gradient)] = gradient
            norms.append(optimiser.descend(learning_rate, config.max_grad_norm))
        since = context.env_steps - state.followed_env_steps
        if isinstance(network, OnlineAndTarget) and since >= config.target_update_interval:
            network.follow()
            state.followed_env_steps = context.env_steps
        figures = torch.stack([*(batch[name].mean() for name in FIGURES), torch.stack(norms).mean()]).tolist()
        metrics = dict(zip((*FIGURES, "grad_norm"), figures, strict=True))
        return Result(len(norms), {**metrics, "learning_rate": learning_rate})

    def epsilon(self, task: Task) -> float:
        """The actor's share of random actions: from 1 to an end that belongs to its slot."""
        end = float(task._replace(round=0).rng().choice(LAST_EPSILONS, p=SHARES))
        return linear(1.0, end, task.env_steps / self.config.epsilon_anneal_env_steps)


def loss(config: A3CConfig, network: Network, batch: Batch) -> Losses:
    """The loss of one actor's unroll, on the actor."""
    valid_TB = batch["valid"].float()
    rewards_TB = batch["reward"].sign() if config.clip_rewards else batch["reward"]

    def advantages(values_TB: Tensor) -> Tensor:
        return gae(rewards_TB, batch["discount"], valid_TB, values_TB, config.gamma, config.trace_decay)

    if isinstance(network, ActorCritic):
        policy, values_TB = network.over(batch)
        advantages_TB = advantages(values_TB.detach())
        log_probs_TB = policy.log_prob(from_env(network.action, batch["action"]))
        return actor_critic_loss(
            policy,
            log_probs_TB * advantages_TB,
            values_TB[:-1],
            advantages_TB + values_TB[:-1].detach(),
            valid_TB,
            config.value_coefficient,
            config.entropy_coefficient,
        )
    with torch.no_grad():
        best_TB = network.target.best(batch["obs"])
        targets_TB = advantages(best_TB) + best_TB[:-1]
    actions = from_env(network.online.action, batch["action"]).unsqueeze(-1)
    q_TB = network.online(batch["obs"][:-1]).gather(-1, actions).squeeze(-1)
    total = mean((q_TB - targets_TB).square(), valid_TB)
    nothing = torch.zeros_like(total.detach())
    return Losses(total, nothing, total.detach(), nothing)
