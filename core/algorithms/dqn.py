"""DQN: Q-learning from a replay table with a target network (Mnih 2015).

    y = R + g^m d Q(s_m, argmax_a' Q(s_m, a'; phi'); phi')     R, m: the n-step return and the rows it sums
    loss = E[huber(Q(s, a; phi) - y)]                          no gradient through y

Options: double (van Hasselt 2016: the argmax from phi instead of phi'), dueling (Wang 2016), n_step (Sutton 1988; m
stops at the episode's end), squared error instead of Huber, Polyak averaging instead of a periodic copy. The target
network equals the online one at the start. `prioritised` (Schaul 2016, algorithm 1): items are drawn by |y - Q|^alpha,
and a batch's losses are multiplied by w = (p / min p)^-beta, p the probability with which an item was drawn, beta
annealed to 1; with `actor_priorities` (Horgan 2018) actors compute the first |y - Q| with the network that acted.

A round's batches come as one: columns [W, K x N], K = batches_per_round, N = batch_size; columns jN .. (j+1)N are
batch j and make optimiser step j. So what does not change between two copies of the target network, the value
targets, comes from one forward for many batches, and the work around a step is paid once a round.

Differences from the paper: Adam, the gradient's norm clipped instead of its elements, epsilon by the run's env_steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import epsilon_greedy, from_env
from core.rl.importance import importance_weights
from core.rl.mlp import Activation
from core.rl.optim import Adam, flatten
from core.rl.qnetworks import QNetwork
from core.rl.returns import nstep
from core.rl.schedules import linear
from core.rl.settings import NetworkSettings
from core.specs import EnvSpec
from core.types import Array, Async, Columns, Context, Plan, Policy, Replay, Result, Rows, Task

MOST_BATCHES_AHEAD = 16  # value targets of this many batches in one forward: more gains nothing and leaves the cache
LEAST_PRIORITY = 1e-6  # added to every |TD error|: an item without error may still be drawn


@dataclass(frozen=True)
class DQNConfig(NetworkSettings):
    """DQN's settings."""

    unroll_length: int = bounded(16, low=1)
    """Rows that an actor sends at a time."""
    replay_capacity: int = bounded(100_000, low=1)
    """Items (valid rows) that the table holds."""
    batch_size: int = bounded(64, low=1)
    """Items of one update."""
    min_size: int = bounded(1000, low=1)
    """Items before the first update."""
    updates_per_env_step: float = bounded(0.5, above=0)
    """The rate limiter keeps this ratio."""
    batches_per_round: int = bounded(16, low=1)
    """Updates between two published versions."""
    learning_rate: float = bounded(1e-3, above=0)
    """Adam's step size."""
    gamma: float = bounded(0.99, low=0, high=1)
    """Discount factor."""
    target_update_interval: int = bounded(100, low=1)
    """Updates between copies of the online network into the target network; unused with `polyak`."""
    polyak: float | None = bounded(None, above=0, high=1)
    """Move the target network this share of the way after every update."""
    double: bool = False
    """The online network chooses the bootstrap's action (van Hasselt 2016)."""
    dueling: bool = False
    """Separate streams for value and advantages (Wang 2016)."""
    n_step: int = bounded(1, low=1)
    """Rewards summed before the bootstrap; fewer where the episode ends."""
    huber: bool = True
    """Huber loss, or the squared error."""
    max_grad_norm: float | None = bounded(10.0, above=0)
    """The gradient's norm is clipped to it; null: never."""
    hidden: tuple[int, ...] = bounded((256, 256), low=1)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Between the layers."""
    epsilon_start: float = bounded(1.0, low=0, high=1)
    """Share of random actions at the start."""
    epsilon_end: float = bounded(0.05, low=0, high=1)
    """Share of random actions after the annealing."""
    epsilon_anneal_env_steps: int = bounded(10_000, low=1)
    """From `epsilon_start` to `epsilon_end` over these many env_steps of the run."""
    prioritised: bool = False
    """Items are drawn by their last TD error (Schaul 2016) instead of uniformly."""
    priority_exponent: float = bounded(0.6, low=0)
    """How much priorities count: 0 draws uniformly."""
    importance_exponent: float = bounded(0.4, low=0, high=1)
    """How much the losses make up for it at the start; annealed linearly to 1, in full, over the run's budget."""
    actor_priorities: bool = False
    """Actors compute the first priorities (Horgan 2018); otherwise a new item has the largest so far."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        if self.min_size > self.replay_capacity:
            yield (
                f"min_size: {self.min_size} items can never be in a table of replay_capacity {self.replay_capacity}; "
                f"lower the first or raise the second"
            )
        if self.batch_size > self.min_size:
            yield (
                f"batch_size: {self.batch_size} is more than min_size {self.min_size}; "
                f"lower the first or raise the second"
            )
        if self.actor_priorities and not self.prioritised:
            yield "actor_priorities: are for a prioritised table; set prioritised to true too, or leave them out"


class State:
    """Adam, the target network and the count of updates."""

    def __init__(self, network: QNetwork) -> None:
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.online_data, self.target_data = flatten(network).data, flatten(self.target).data
        self.optimiser = Adam(network)
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Copies."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "target": self.target_data.clone(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; KeyError or ValueError where it is another network's."""
        if state["target"].shape != self.target_data.shape:
            raise ValueError(f"target has {list(state['target'].shape)}, this takes {list(self.target_data.shape)}")
        self.optimiser.load_state_dict(state["optimiser"])
        self.target_data.copy_(state["target"])
        self.updates = int(state["updates"])


class DQN:
    """The contract's six methods."""

    Config = DQNConfig

    def __init__(self, config: DQNConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Short unrolls into a replay table; actors take the newest weights."""
        config = self.config
        table = Replay(
            capacity=config.replay_capacity,
            batch_size=config.batch_size,
            min_size=config.min_size,
            updates_per_env_step=config.updates_per_env_step,
            batches_per_round=config.batches_per_round,
            after=config.n_step,
            prioritised=config.prioritised,
            priority_exponent=config.priority_exponent,
        )
        return Plan(Rows(config.unroll_length), table, Async())

    def network(self, spec: EnvSpec) -> QNetwork:
        """Q-values. Raises ConfigError for actions that are not discrete."""
        return QNetwork(spec, self.config, self.config.dueling)

    def policy(self, network: QNetwork, task: Task) -> Policy:
        """Epsilon-greedy, epsilon by the run's env_steps."""
        return epsilon_greedy(network, task, self.epsilon(task.env_steps), self.config.unroll_length)

    def item(self, network: QNetwork, unroll: Columns, task: Task) -> Columns:
        """The unroll itself, with `actor_priorities` a column `priority` [T, B] beside it."""
        if not self.config.actor_priorities:
            return unroll
        return {**unroll, "priority": initial_priorities(self.config, network, unroll)}

    def state(self, network: QNetwork) -> State:
        """Adam, and a target network equal to `network`."""
        return State(network)

    def update(self, network: QNetwork, state: State, batch: Batch, context: Context) -> Result:
        """One optimiser step for every `batch_size` columns of the batch, in order."""
        config, optimiser = self.config, state.optimiser
        size = config.batch_size
        obs, next_obs, returns, factors = windows(config, batch)
        actions = from_env(network.action, batch["action"][0]).unsqueeze(-1)
        valid = batch["valid"][0].view(-1, size).float()
        weights = valid / valid.sum(1, keepdim=True).clamp(min=1)
        if config.prioritised:
            exponent = linear(config.importance_exponent, 1.0, context.progress)
            weights = weights * importance_weights(batch["probability"].view(-1, size), exponent)
        batches = list(zip(obs.split(size), actions.split(size), weights.unbind(0), strict=True))
        made: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        while (start := len(made)) < len(batches):
            ahead = slice(start * size, (start + self.batches_ahead(state.updates)) * size)
            targets = value_targets(config, network, state.target, next_obs[ahead], returns[ahead], factors[ahead])
            for targets_N in targets.split(size):
                obs_N, actions_N1, weights_N = batches[len(made)]
                q_N = network(obs_N).gather(-1, actions_N1).squeeze(-1)
                value = loss(config, q_N, targets_N, weights_N)
                norm = optimiser.step(value, config.learning_rate, config.max_grad_norm)
                made.append((value.detach(), norm, q_N.detach(), targets_N))
            state.updates += len(made) - start
            self.follow(state)
        losses, norms, q, all_targets = zip(*made, strict=True)
        means = torch.stack((torch.stack(losses).mean(), torch.stack(norms).mean(), torch.cat(q).mean())).tolist()
        metrics = dict(zip(("loss", "grad_norm", "q_mean"), means, strict=True))
        metrics["epsilon"] = self.epsilon(context.env_steps)
        priorities = priorities_of(torch.cat(q), torch.cat(all_targets)) if config.prioritised else None
        return Result(len(made), metrics, priorities)

    def epsilon(self, env_steps: int) -> float:
        """The share of random actions at that point of the run."""
        config = self.config
        return linear(config.epsilon_start, config.epsilon_end, env_steps / config.epsilon_anneal_env_steps)

    def batches_ahead(self, updates: int) -> int:
        """How many batches' value targets, after that many updates, depend on nothing that their own updates change."""
        config = self.config
        if config.double or config.polyak is not None:
            return 1
        interval = config.target_update_interval
        return min(MOST_BATCHES_AHEAD, interval - updates % interval)

    def follow(self, state: State) -> None:
        """Move the target network, if it is time."""
        if self.config.polyak is not None:
            state.target_data.lerp_(state.online_data, self.config.polyak)
        elif state.updates % self.config.target_update_interval == 0:
            state.target_data.copy_(state.online_data)


def loss(config: DQNConfig, q_N: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Weighted sum of Huber (with threshold 1) or squared errors of Q(s, a).

    The weights of a batch add up to 1; where it is prioritised, to at most 1.
    """
    kind = functional.smooth_l1_loss if config.huber else functional.mse_loss
    return torch.dot(weights_N, kind(q_N, targets_N, reduction="none"))


def windows(config: DQNConfig, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of windows [W, N]: first obs, bootstrap obs, n-step returns, and what the bootstrap is multiplied by."""
    obs = batch["obs"]
    found = nstep(batch["reward"], batch["discount"], batch["valid"].float(), config.gamma)
    if config.n_step == 1:
        return obs[0], obs[1], found.returns_N, found.factors_N
    columns_N = torch.arange(obs.shape[1], device=obs.device)
    return obs[0], obs[found.steps_N, columns_N], found.returns_N, found.factors_N


def priorities_of(q: Tensor, targets: Tensor) -> Array:
    """|TD error| and a little, float32."""
    found: Array = ((targets - q).abs() + LEAST_PRIORITY).cpu().numpy()
    return found


@torch.inference_mode()
def initial_priorities(config: DQNConfig, network: QNetwork, unroll: Columns) -> Array:
    """The first priorities of an unroll's rows [T, B], float32, by one network in both places.

    A row whose return is not known before the next unroll is +inf, which the table takes for its largest so far; a row
    that is no step is never an item and 0.
    """
    actions = from_env(network.action, torch.from_numpy(np.ascontiguousarray(unroll["action"])))
    q_TBA: Tensor = network(torch.from_numpy(np.ascontiguousarray(unroll["obs"])))
    q_TB = q_TBA[:-1].gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    T, B = q_TB.shape

    def ahead(name: str, beyond: float) -> Tensor:
        """The windows [n_step, T x B] of a column, as if `beyond` followed."""
        column = torch.from_numpy(np.array(unroll[name], np.float32))
        longer = torch.cat((column, column.new_full((config.n_step - 1, B), beyond)))
        return longer.unfold(0, config.n_step, 1).flatten(0, 1).t()

    found = nstep(ahead("reward", 0.0), ahead("discount", 1.0), ahead("valid", 0.0), config.gamma)
    returns_TB, factors_TB, steps_TB = (column.view(T, B) for column in found)
    end_TB = torch.arange(T).unsqueeze(1) + steps_TB
    targets_TB = returns_TB + factors_TB * q_TBA.amax(-1).gather(0, end_TB)
    known_TB = (steps_TB == config.n_step) | (end_TB < T) | (factors_TB == 0)
    priorities = np.where(known_TB.numpy(), priorities_of(q_TB, targets_TB), np.float32(np.inf))
    return np.where(unroll["valid"] == 1, priorities, np.float32(0)).astype(np.float32)


@torch.no_grad()
def value_targets(
    config: DQNConfig, online: QNetwork, target: QNetwork, next_obs: Tensor, returns_N: Tensor, factors_N: Tensor
) -> Tensor:
    """The y of N windows [N], without gradient."""
    q_NA = target(next_obs)
    chooser_NA = online(next_obs) if config.double else q_NA
    best_N = q_NA.gather(-1, chooser_NA.argmax(-1, keepdim=True)).squeeze(-1)
    return torch.addcmul(returns_N, factors_N, best_N)
