"""Policies for actors: one forward and one argmax a row; all randomness of many rows is drawn at once.

Made anew for every unroll from the task's own generator, so a replacement actor repeats the same actions. Networks
that act are on the CPU. Actions leave as the environment takes them: discrete ones shifted by the space's start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from core.rl.networks import ActorCritic, PolicyNetwork
from core.rl.qnetworks import QNetwork
from core.specs import ActionSpec
from core.types import Array, Policy, Step, Task

T = TypeVar("T")
MANY = 1 << 62
"""So many numbers are spread evenly over any number of actions, but for a share of 2^-50."""


def to_env(action: ActionSpec, actions: Tensor) -> Tensor:
    """Indices 0 .. n - 1 [...] or [..., D] as the space's own integers; vectors [..., D] in the space's shape."""
    if action.kind == "discrete":
        return actions + action.start if action.start else actions
    if action.kind == "multi_discrete":
        return actions + torch.tensor(action.starts, device=actions.device) if any(action.starts) else actions
    return actions.unflatten(-1, action.array.shape) if len(action.array.shape) != 1 else actions


def from_env(action: ActionSpec, actions: Tensor) -> Tensor:
    """The inverse of `to_env`, for an `action` column."""
    if action.kind == "discrete":
        return actions - action.start if action.start else actions
    if action.kind == "multi_discrete":
        return actions - torch.tensor(action.starts, device=actions.device) if any(action.starts) else actions
    return actions.reshape(*actions.shape[: actions.ndim - len(action.array.shape)], action.array.size)


def _rows(draw: Callable[[tuple[int, ...]], Iterable[T]]) -> Callable[[tuple[int, ...]], T]:
    """A function that gives one row of the shape it is asked for; `draw` makes many, anew when the shape changes."""
    ahead: Iterator[T] = iter(())
    drawn: tuple[int, ...] | None = None

    def row(shape: tuple[int, ...]) -> T:
        nonlocal ahead, drawn
        found = next(ahead, None) if shape == drawn else None
        if found is None:
            ahead, drawn = iter(draw(shape)), shape
            found = next(ahead)
        return found

    return row


def sampling(network: ActorCritic | PolicyNetwork, task: Task, rows: int, *, record: bool = True) -> Policy:
    """Sample actions and `record` their `log_prob` [B], float32; without `task.explore` take the mode.

    Noise is drawn `rows` rows at a time. A recurrent network's memory is [B, M], float32; None is an episode's start.
    """
    rng = task.rng()
    kinds: list[Any] = []  # the distribution's class, once one was made
    noise = _rows(lambda shape: kinds[0].noise(rng, (rows, *shape)).unbind(0))

    def policy(obs: Array, memory: Array | None) -> Step:
        with torch.inference_mode():
            before = None if memory is None else torch.from_numpy(memory)
            distribution, after = network.act(torch.from_numpy(obs), before)
            kinds[:] = [type(distribution)]
            actions = distribution.sample(noise(distribution[0].shape)) if task.explore else distribution.mode()
            columns = {"log_prob": distribution.log_prob(actions).numpy()} if record else {}
            remembered = None if after is None else after.numpy()
            return Step(to_env(network.action, actions).numpy(), columns, remembered)

    return policy


def epsilon_greedy(network: QNetwork, task: Task, epsilon: float | Callable[[int], Array], rows: int) -> Policy:
    """The legal action of highest Q, or with probability `epsilon` (0 without `task.explore`) a uniform legal one.

    `epsilon` may be a function from a number of environments to each one's own, [B].
    """
    rng, start = task.rng(), network.action.start
    high = network.action.n if network.legal is None else MANY

    def draw(shape: tuple[int, ...]) -> Iterable[tuple[Array, Array]]:
        many = (rows, *shape)
        share = epsilon(*shape) if callable(epsilon) else epsilon
        return zip(rng.random(many, np.float32) < share, rng.integers(0, high, many), strict=True)

    dice = _rows(draw)

    def policy(obs: Array, memory: object) -> Step:
        with torch.inference_mode():
            observed = torch.from_numpy(obs)
            action: Array = network.among_legal(network(observed), observed).argmax(-1).numpy()
        if task.explore:
            explores, uniform = dice((len(obs),))
            if network.legal is not None:
                uniform = _among(network.legal(observed).numpy(), uniform)
            action = np.where(explores, uniform, action)
        return Step(action + start if start else action, {}, memory)

    return policy


def _among(legal: Array, uniform: Array) -> Array:
    """From uniform numbers [B] below MANY, each the index of a uniform legal action; `legal` [B, A]."""
    counts = legal.sum(-1)
    wanted = uniform % np.maximum(counts, 1)
    found: Array = (legal.cumsum(-1) > wanted[:, None]).argmax(-1)
    return found
