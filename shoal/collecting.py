"""`shoal collect`: episodes of a trained policy as a Minari dataset, for bc and for other libraries."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from gymnasium import spaces

from core import envs as vector
from core.datasets import minari
from core.errors import ConfigError
from core.packing import unpack
from core.specs import ArraySpec, EnvSpec
from core.types import Array
from shoal.minari_files import whole_or_nothing
from shoal.policy import Policy, load

MAX_ENVS = 16


@dataclass(frozen=True)
class Collected:
    """A dataset that was written."""

    dataset_id: str
    episodes: int
    steps: int
    mean_return: float


def collect(
    run: str | PathLike[str],
    dataset_id: str,
    *,
    episodes: int = 100,
    seed: int = 0,
    explore: bool = False,
    checkpoint: str | PathLike[str] = "best",
) -> Collected:
    """Play `episodes` episodes with a run's policy and write them as the new dataset `dataset_id`.

    Greedy, unless `explore` asks for the exploration of training. Observations of several parts become a Dict space.
    Raises ConfigError where the run, the name or minari is missing.
    """
    if episodes < 1:
        raise ConfigError(f"episodes {episodes}: at least 1 is needed")
    package = minari()
    policy = load(run, checkpoint)
    with whole_or_nothing(dataset_id):
        played = play(policy, episodes, seed, explore)
        package.create_dataset_from_buffers(
            dataset_id,
            [_buffer(policy.spec, columns, terminated) for columns, terminated in played],
            observation_space=_space(policy.spec),
            action_space=_action_space(policy),
            algorithm_name=policy.algorithm,
            description=f"{policy.algorithm} on {policy.env} after {policy.env_steps:,} env steps, by Shoal",
            jpeg_encoding=False,
        )
    returns = [float(columns["reward"].sum()) for columns, _ in played]
    steps = sum(len(columns["reward"]) for columns, _ in played)
    return Collected(dataset_id, len(played), steps, float(np.mean(returns)))


Played = tuple[dict[str, Array], bool]
"""Columns obs [T + 1, ...], action and reward [T, ...] of one episode, and whether it terminated."""


def play(policy: Policy, episodes: int, seed: int, explore: bool) -> list[Played]:
    """Whole episodes; each environment plays its share, so short ones are not favoured."""
    envs = vector.make(policy.env, min(episodes, MAX_ENVS), policy.env_kwargs, policy.env_wrappers)
    try:
        return _play(policy, envs, episodes, vector.seed_of(seed, 0, vector.EVALUATION), explore)
    finally:
        envs.close()


def _play(policy: Policy, envs: vector.Env, episodes: int, seed: int, explore: bool) -> list[Played]:
    act, num_envs = policy.as_function(explore), envs.num_envs
    left = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    running: list[tuple[list[Array], list[Any], list[float]]] = [([], [], []) for _ in range(num_envs)]
    finished: list[Played] = []
    ended = np.zeros(num_envs, bool)
    memory = None
    obs = np.array(envs.reset(seed=seed)[0], policy.spec.observation.dtype)
    while left.any():
        step = act(obs, memory)
        action = vector.clip_action(step.action, policy.spec.action)
        memory = None if step.memory is None else step.memory * ~ended[:, None]
        before = obs
        obs, reward, terminated, truncated, _ = envs.step(action)
        obs = np.array(obs, policy.spec.observation.dtype)
        over = terminated | truncated
        for b in np.flatnonzero(~ended & (left > 0)):
            seen, done, gained = running[b]
            seen.append(before[b])
            done.append(np.array(action[b]))
            gained.append(float(reward[b]))
            if over[b]:
                columns = {"obs": np.stack([*seen, obs[b]]), "action": np.stack(done), "reward": np.array(gained)}
                finished.append((columns, bool(terminated[b])))
                running[b] = ([], [], [])
                left[b] -= 1
        ended = over
    return finished


def _buffer(spec: EnvSpec, columns: dict[str, Array], terminated: bool) -> Any:
    last = np.zeros(len(columns["reward"]), bool)
    last[-1] = True
    observations: Any = unpack(columns["obs"], spec.parts) if spec.parts else columns["obs"]
    return importlib.import_module("minari.data_collector").EpisodeBuffer(
        observations=observations,
        actions=columns["action"],
        rewards=columns["reward"],
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos=None,
    )


def _space(spec: EnvSpec) -> spaces.Space[Any]:
    if not spec.parts:
        return _box(spec.observation)
    return spaces.Dict({part.name: spaces.Discrete(part.n) if part.n else _box(part.array) for part in spec.parts})


def _box(array: ArraySpec) -> spaces.Space[Any]:
    low, high = (0, 255) if array.dtype == "uint8" else (-np.inf, np.inf)
    return spaces.Box(low, high, array.shape, np.dtype(array.dtype).type)


def _action_space(policy: Policy) -> spaces.Space[Any]:
    action = policy.spec.action
    if action.kind == "discrete":
        return spaces.Discrete(action.n, start=action.start)
    if action.kind == "multi_discrete":
        several: spaces.Space[Any] = spaces.MultiDiscrete(list(action.nvec), start=list(action.starts))
        return several
    low, high = (np.array(bound, np.float32).reshape(action.array.shape) for bound in (action.low, action.high))
    return spaces.Box(low, high, action.array.shape, np.float32)
