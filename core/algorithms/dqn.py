"""DQN: Q-learning with neural networks, from the plain online form to Rainbow and Ape-X (Mnih 2015).

    y = R + g^m d Q(s_m, argmax_a' Q(s_m, a'; phi'); phi')     R, m: the n-step return and the rows it sums
    loss = E[huber(Q(s, a; phi) - y)]                          no gradient through y
The lecture's three stages are settings: v1 `replay: none, target_update_interval: 0` learns once from what comes in and
bootstraps from itself; v2 `replay: uniform, target_update_interval: 0`; v3 a target network phi' that is copied now and
then, or follows by Polyak averaging. It equals the online one at the start.

Options: double (van Hasselt 2016: the argmax from phi instead of phi'), dueling (Wang 2016), n_step (Sutton 1988; m
stops at the episode's end), squared error instead of Huber, distribution c51 (Bellemare 2017) or qr (Dabney 2018) in
place of the expectation, noisy layers in place of epsilon (Fortunato 2018). `replay: prioritised` (Schaul 2016,
algorithm 1): items are drawn by priority^alpha, |y - Q| or the distributional loss, and losses are multiplied by
w = (p / min p)^-beta, p the probability with which an item was drawn, beta annealed to 1. All of them together are
Rainbow (Hessel 2018; examples/rainbow.yaml). With `epsilon_per_actor` environment i of all N explores with
epsilon^(1 + alpha i / (N - 1)), and with `actor_priorities` actors compute the first priorities with the network that
acted: Ape-X (Horgan 2018; examples/apex.yaml), whose actors have one environment each.

A round's batches come as one: columns [W, K x N], K = batches_per_round, N = batch_size; columns jN .. (j+1)N are
batch j and make optimiser step j. So what does not change between two copies of the target network, the value
targets, comes from one forward for many batches, and the work around a step is paid once a round.

Differences from the paper: Adam, the gradient's norm clipped instead of its elements, epsilon by the run's env_steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.algorithms.dqn_settings import DQNConfig
from core.rl.acting import epsilon_greedy, from_env
from core.rl.importance import importance_weights
from core.rl.optim import Adam, flatten
from core.rl.qnetworks import QNetwork
from core.rl.return_models import Atoms, Expectation, Quantiles, ReturnModel
from core.rl.returns import NStep, nstep
from core.rl.schedules import linear
from core.specs import EnvSpec
from core.types import Array, Async, Columns, Context, Lag, Plan, Policy, Queue, Replay, Result, Rows, Task

MOST_BATCHES_AHEAD = 16  # value targets of this many batches in one forward: more gains nothing and leaves the cache
LEAST_PRIORITY = 1e-6  # added to every |TD error|: an item without error may still be drawn


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
        """Short unrolls into a replay table, actors take the newest weights; without replay each is used once."""
        config = self.config
        if config.replay == "none":
            return Plan(Rows(config.unroll_length), Queue(), Lag(1))
        table = Replay(
            capacity=config.replay_capacity,
            batch_size=config.batch_size,
            min_size=config.min_size,
            updates_per_env_step=config.updates_per_env_step,
            batches_per_round=config.batches_per_round,
            after=config.n_step,
            prioritised=config.replay == "prioritised",
            priority_exponent=config.priority_exponent,
        )
        return Plan(Rows(config.unroll_length), table, Async())

    def network(self, spec: EnvSpec) -> QNetwork:
        """Q-values. Raises ConfigError for actions that are not discrete."""
        config = self.config
        return QNetwork(spec, config, config.dueling, model_of(config), config.noisy_sigma if config.noisy else None)

    def policy(self, network: QNetwork, task: Task) -> Policy:
        """Epsilon-greedy, epsilon by the run's env_steps or by the actor; or greedy with noise in the layers."""
        config = self.config
        network.explore(task.rng() if task.explore else None)
        if config.epsilon_per_actor:
            return epsilon_greedy(network, task, self.epsilons(task), config.unroll_length)
        return epsilon_greedy(network, task, self.epsilon(task.env_steps), config.unroll_length)

    def item(self, network: QNetwork, unroll: Columns, task: Task) -> Columns:
        """The unroll itself, with `actor_priorities` a column `priority` [T, B] beside it."""
        if not self.config.actor_priorities:
            return unroll
        return {**unroll, "priority": initial_priorities(self.config, network, unroll)}

    def state(self, network: QNetwork) -> State:
        """Adam, and a target network equal to `network`."""
        return State(network)

    def update(self, network: QNetwork, state: State, batch: Batch, context: Context) -> Result:
        """One optimiser step for every `batch_size` columns of the batch, in order; without replay a single one."""
        config, optimiser, model = self.config, state.optimiser, network.model
        if config.replay == "none":
            batch = unrolled(config, batch)
        size = batch["valid"].shape[1] if config.replay == "none" else config.batch_size
        obs, next_obs, returns, factors = windows(config, batch)
        actions = from_env(network.action, batch["action"][0])
        valid = batch["valid"][0].view(-1, size).float()
        weights = valid / valid.sum(1, keepdim=True).clamp(min=1)
        if config.replay == "prioritised":
            exponent = linear(config.importance_exponent, 1.0, context.progress)
            weights = weights * importance_weights(batch["probability"].view(-1, size), exponent)
        batches = list(zip(obs.split(size), actions.split(size), weights.unbind(0), strict=True))
        target = state.target if config.has_target else network
        made: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        while (start := len(made)) < len(batches):
            if config.noisy:
                network.explore(context.rng)
                target.explore(context.rng)
            ahead = slice(start * size, (start + self.batches_ahead(state.updates)) * size)
            targets = value_targets(config, network, target, next_obs[ahead], returns[ahead], factors[ahead])
            for targets_N in targets.split(size):
                obs_N, actions_N, weights_N = batches[len(made)]
                chosen = chosen_of(network, obs_N, actions_N)
                value = torch.dot(weights_N, model.losses(chosen, targets_N))
                norm = optimiser.step(value, config.learning_rate, config.max_grad_norm)
                made.append((value.detach(), norm, chosen.detach(), targets_N))
            state.updates += len(made) - start
            self.follow(state)
        losses, norms, all_chosen, all_targets = zip(*made, strict=True)
        chosen, targets = torch.cat(all_chosen), torch.cat(all_targets)
        q_mean = model.q(chosen).mean()
        means = torch.stack((torch.stack(losses).mean(), torch.stack(norms).mean(), q_mean)).tolist()
        metrics = dict(zip(("loss", "grad_norm", "q_mean"), means, strict=True))
        metrics["epsilon"] = self.epsilon(context.env_steps)
        priorities = priorities_of(model, chosen, targets) if config.replay == "prioritised" else None
        return Result(len(made), metrics, priorities)

    def epsilon(self, env_steps: int) -> float:
        """The share of random actions at that point of the run; 0 with noisy layers, which explore by themselves."""
        config = self.config
        if config.noisy:
            return 0.0
        return linear(config.epsilon_start, config.epsilon_end, env_steps / config.epsilon_anneal_env_steps)

    def epsilons(self, task: Task) -> Callable[[int], Array]:
        """From a number of environments B to the share of random actions of each, [B]."""
        config = self.config

        def of(B: int) -> Array:
            place = (task.slot * B + np.arange(B)) / max(1, task.slots * B - 1)
            found: Array = config.apex_epsilon ** (1 + config.apex_alpha * place)
            return found

        return of

    def batches_ahead(self, updates: int) -> int:
        """How many batches' value targets, after that many updates, depend on nothing that their own updates change."""
        config = self.config
        if config.double or config.noisy or config.polyak is not None or not config.has_target:
            return 1
        interval = config.target_update_interval
        return min(MOST_BATCHES_AHEAD, interval - updates % interval)

    def follow(self, state: State) -> None:
        """Move the target network, if it is time."""
        if self.config.polyak is not None:
            state.target_data.lerp_(state.online_data, self.config.polyak)
        elif self.config.has_target and state.updates % self.config.target_update_interval == 0:
            state.target_data.copy_(state.online_data)


def model_of(config: DQNConfig) -> ReturnModel:
    """What the network says of the return."""
    if config.distribution == "c51":
        return Atoms(config.atoms, config.value_min, config.value_max)
    return Quantiles(config.quantiles) if config.distribution == "qr" else Expectation(config.huber)


def chosen_of(network: QNetwork, obs: Tensor, actions: Tensor) -> Tensor:
    """The model's numbers [..., outputs] of the actions [...] taken."""
    outputs = network.returns(obs)
    index = actions[..., None, None].expand(*actions.shape, 1, outputs.shape[-1])
    return outputs.gather(-2, index).squeeze(-2)


def unrolled(config: DQNConfig, batch: Batch) -> Batch:
    """Unrolls [T, B] as windows [n_step, T x B], as a replay table gives them; those at the end are cut short."""
    T = len(batch["valid"])
    rows = torch.arange(T).unsqueeze(0) + torch.arange(config.n_step + 1).unsqueeze(1)
    inside = rows[:-1] < T
    found = {name: batch[name][rows[:-1].clamp(max=T - 1)].flatten(1, 2) for name in ("action", "reward", "discount")}
    found["valid"] = (batch["valid"][rows[:-1].clamp(max=T - 1)] * inside.unsqueeze(-1)).flatten(1, 2)
    found["obs"] = batch["obs"][rows.clamp(max=T)].flatten(1, 2)
    return found


def windows(config: DQNConfig, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of windows [W, N]: first obs, bootstrap obs, n-step returns, and what the bootstrap is multiplied by."""
    obs, rewards = batch["obs"], batch["reward"]
    if config.clip_rewards:
        rewards = rewards.sign()
    found = nstep(rewards, batch["discount"], batch["valid"].float(), config.gamma)
    if config.n_step == 1:
        return obs[0], obs[1], found.returns_N, found.factors_N
    columns_N = torch.arange(obs.shape[1], device=obs.device)
    return obs[0], obs[found.steps_N, columns_N], found.returns_N, found.factors_N


def priorities_of(model: ReturnModel, chosen: Tensor, targets: Tensor) -> Array:
    """The model's priorities and a little, float32."""
    found: Array = (model.priorities(chosen, targets) + LEAST_PRIORITY).cpu().numpy()
    return found


@torch.inference_mode()
def initial_priorities(config: DQNConfig, network: QNetwork, unroll: Columns) -> Array:
    """The first priorities of an unroll's rows [T, B], float32, by one network in both places.

    A row whose return is not known before the next unroll is +inf, which the table takes for its largest so far; a row
    that is no step is never an item and 0.
    """
    batch = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in unroll.items()}
    T, B = batch["valid"].shape
    actions_TB = from_env(network.action, batch["action"])
    reward, discount, valid = (_ahead(config, unroll, name) for name in ("reward", "discount", "valid"))
    found = NStep(*(column.view(T, B) for column in nstep(reward, discount, valid, config.gamma)))
    end_TB = torch.arange(T).unsqueeze(1) + found.steps_N
    next_obs = batch["obs"][end_TB.clamp(max=T), torch.arange(B)]
    targets = value_targets(
        config, network, network, next_obs.flatten(0, 1), found.returns_N.flatten(), found.factors_N.flatten()
    )
    chosen = chosen_of(network, batch["obs"][:-1].flatten(0, 1), actions_TB.flatten())
    known_TB = (found.steps_N == config.n_step) | (end_TB < T) | (found.factors_N == 0)
    priorities = priorities_of(network.model, chosen, targets).reshape(T, B)
    priorities = np.where(known_TB.numpy(), priorities, np.float32(np.inf))
    return np.where(unroll["valid"] == 1, priorities, np.float32(0)).astype(np.float32)


def _ahead(config: DQNConfig, unroll: Columns, name: str) -> Tensor:
    """The windows [n_step, T x B] of a column, as if rows of a running episode without rewards followed."""
    column = torch.from_numpy(np.array(unroll[name], np.float32))
    if name == "reward" and config.clip_rewards:
        column = column.sign()
    beyond = column.new_full((config.n_step - 1, column.shape[1]), 1.0 if name == "discount" else 0.0)
    return torch.cat((column, beyond)).unfold(0, config.n_step, 1).flatten(0, 1).t()


@torch.no_grad()
def value_targets(
    config: DQNConfig, online: QNetwork, target: QNetwork, next_obs: Tensor, returns_N: Tensor, factors_N: Tensor
) -> Tensor:
    """The y of N windows, without gradient: [N], or a distribution's numbers [N, outputs]."""
    outputs = target.returns(next_obs)
    q_NA = online(next_obs) if config.double else target.model.q(outputs)
    best_N = target.among_legal(q_NA, next_obs).argmax(-1)
    index = best_N[:, None, None].expand(-1, 1, outputs.shape[-1])
    return target.model.targets(outputs.gather(1, index).squeeze(1), returns_N, factors_N)
