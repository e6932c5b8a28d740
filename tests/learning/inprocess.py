"""One actor and one learner without processes: what an algorithm learns, in seconds and the same every time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from actors.unroller import Unroller
from core import envs as vector
from core.algorithms import make
from core.evaluate import evaluate
from core.rl.optim import flatten
from core.specs import EnvSpec
from core.types import Array, Columns, Context, Queue, Replay, Task


class Small(gym.vector.VectorEnv[Any, Any, Any], ABC):
    """Base of small tasks: B environments at once, NEXT_STEP; subclasses say what is seen, and what a step brings."""

    length = 8
    single_observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (3,), np.float32)
    single_action_space: spaces.Space[Any] = spaces.Discrete(3)

    def __init__(self, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self.rng = num_envs, np.random.default_rng(0)
        self.at, self.ended = np.zeros(num_envs, int), np.zeros(num_envs, bool)
        self.begin(np.ones(num_envs, bool))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.at[:], self.ended[:] = 0, False
        self.begin(np.ones(self.num_envs, bool))
        return self.seen(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        resets = self.ended.copy()
        self.at = np.where(resets, 0, self.at + 1)
        reward, over = self.act(np.asarray(actions))
        self.begin(resets)
        self.ended = ~resets & (over | (self.at >= self.length))
        return self.seen(), np.where(resets, 0.0, reward), self.ended.copy(), np.zeros(self.num_envs, bool), {}

    def begin(self, which: Array) -> None:
        """New episodes where `which` says so."""

    @abstractmethod
    def seen(self) -> Array:
        """Observations [B, ...]."""

    @abstractmethod
    def act(self, actions: Array) -> tuple[Array, Array]:
        """Rewards [B], and where an episode is over early."""


class Identity(Small):
    """The right action is the one that is shown, another one each step: 8 is the best return, 8/3 chance."""

    def begin(self, which: Array) -> None:
        self.shown = self.rng.integers(0, 3, self.num_envs)

    def seen(self) -> Array:
        return np.eye(3, dtype=np.float32)[self.shown]

    def act(self, actions: Array) -> tuple[Array, Array]:
        return (actions == self.shown).astype(float), np.zeros(self.num_envs, bool)


class IdentityBox(Identity):
    """The same with a number: minus the squared distance to what is shown, 0 is best."""

    single_action_space = spaces.Box(-2, 2, (1,), np.float32)

    def act(self, actions: Array) -> tuple[Array, Array]:
        return -np.square(actions[:, 0] - (self.shown - 1.0)), np.zeros(self.num_envs, bool)


class Chain(Small):
    """Right, right, right ... six times for 10 at the end; to go left ends the episode with 1."""

    length = 6
    single_action_space = spaces.Discrete(2)

    def seen(self) -> Array:
        return np.stack([self.at, np.ones(self.num_envs), 0 * self.at], 1).astype(np.float32)

    def act(self, actions: Array) -> tuple[Array, Array]:
        left = actions == 0
        return np.where(left, 1.0, np.where(self.at >= self.length, 10.0, 0.0)), left


class Memory(Small):
    """A cue in the first row only; what it was is asked five rows later: chance is 0.5."""

    length = 6
    single_action_space = spaces.Discrete(2)

    def begin(self, which: Array) -> None:
        drawn = self.rng.integers(0, 2, self.num_envs)
        self.cue = np.where(which, drawn, getattr(self, "cue", drawn))

    def seen(self) -> Array:
        first = self.at == 0
        cue = np.where(first, 2 * self.cue - 1, 0)
        return np.stack([cue, self.at == self.length - 1, np.ones(self.num_envs)], 1).astype(np.float32)

    def act(self, actions: Array) -> tuple[Array, Array]:
        return ((self.at == self.length) & (actions == self.cue)).astype(float), np.zeros(self.num_envs, bool)


class Lanes(Small):
    """A road of 60 places with five lanes, each with a right action of its own; a step on the first lane brings 1.

    The right action leads one lane back to the first, any other one further away, and one step in 20 slips. Who drives
    well is hardly ever seen on the other lanes, so records of it do not say how to come back.
    """

    LANES, PLACES = 5, 60
    length = PLACES
    single_observation_space = spaces.Box(0, 1, (LANES * PLACES,), np.float32)
    RIGHT: Array = np.random.default_rng(5).integers(0, 3, LANES * PLACES)

    def begin(self, which: Array) -> None:
        self.lane = np.where(which, 0, getattr(self, "lane", 0))

    def seen(self) -> Array:
        place = np.minimum(self.at, self.PLACES - 1) * self.LANES + self.lane
        found: Array = np.eye(self.LANES * self.PLACES, dtype=np.float32)[place]
        return found

    def act(self, actions: Array) -> tuple[Array, Array]:
        right = self.RIGHT[(self.at - 1) * self.LANES + self.lane] == actions
        slips = self.rng.random(self.num_envs) < 0.05
        self.lane = np.clip(self.lane + np.where(right & ~slips, -1, 1), 0, self.LANES - 1)
        return (self.lane == 0).astype(float), np.zeros(self.num_envs, bool)


def driver(obs: Array) -> Array:
    """The expert of Lanes."""
    right: Array = Lanes.RIGHT[obs.argmax(-1)]
    return right


class Table:
    """Rows of unrolls as windows, drawn uniformly or, for want of priorities that matter here, as if."""

    def __init__(self, table: Replay, rng: np.random.Generator) -> None:
        self.table, self.rng, self.items, self.due = table, rng, cast(list[Columns], []), 0.0

    def insert(self, item: Columns) -> None:
        T = len(item["valid"])
        for t in range(T - self.table.after + 1):
            for b in np.flatnonzero(item["valid"][t]):
                window = {n: c[t : t + self.table.after + (n == "obs"), b].copy() for n, c in item.items()}
                self.items.append(window)
                self.due += self.table.updates_per_env_step

    def draw(self) -> dict[str, torch.Tensor] | None:
        table = self.table
        if len(self.items) < table.min_size or self.due < table.batches_per_round:
            return None
        self.due -= table.batches_per_round
        chosen = self.rng.integers(0, len(self.items), table.batch_size * table.batches_per_round)
        first = self.items[0]
        batch = {n: torch.from_numpy(np.stack([self.items[i][n] for i in chosen], 1)) for n in first if n != "priority"}
        if table.prioritised:
            batch["probability"] = torch.full((len(chosen),), 1 / len(self.items), dtype=torch.float64)
        return batch


def learned(
    name: str, settings: dict[str, Any], env: type[Small], env_steps: int, envs: int = 16, seed: int = 1
) -> float:
    """The mean return of 40 greedy episodes after so many env steps."""
    torch.manual_seed(seed)
    algorithm = make(name, settings)
    environments = cast(vector.Env, env(envs))
    spec = vector.spec_of(env.__name__, environments)
    network, plan = algorithm.network(spec), algorithm.plan()
    flatten(network)
    state, steps, round = algorithm.state(network), 0, 0
    assert not hasattr(plan.collect, "dataset")
    unroller = Unroller(environments, spec, plan.collect, seed)
    table = Table(plan.table, np.random.default_rng(seed)) if isinstance(plan.table, Replay) else None
    while steps < env_steps:
        task = Task(seed, 0, 1, round, steps, env_steps)
        unroll, _ = unroller.collect(algorithm.policy(network, task))
        item = algorithm.item(network, unroll, task)
        steps, round = steps + int(unroll["valid"].sum()), round + 1
        context = Context(np.random.default_rng([seed, round]), round, steps, env_steps)
        if table is None:
            assert isinstance(plan.table, Queue)
            batch = {n: torch.from_numpy(np.array(column)) for n, column in item.items()}
            algorithm.update(network, state, batch, context)
            continue
        table.insert(item)
        while (drawn := table.draw()) is not None:
            algorithm.update(network, state, drawn, context)
    return greedy_return(algorithm, network, spec, env(20))


def greedy_return(algorithm: Any, network: Any, spec: EnvSpec, env: Small) -> float:
    task = Task(0, 0, 1, 0, 1, 1, explore=False)
    played = evaluate(algorithm.policy(network, task), cast(vector.Env, env), spec, 40, seed=99)
    return float(np.mean([episode.total_reward for episode in played]))
