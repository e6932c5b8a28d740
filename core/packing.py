"""Observations of several arrays as one column of bytes, and action masks as one of those arrays.

A row of B environments is packed by one copy for each array; readers view the bytes and copy nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from core.spaces import MASK, observation_of
from core.specs import ArraySpec, ObservationPart
from core.types import Array


def unpack(packed: Array, parts: Sequence[ObservationPart]) -> dict[str, Array]:
    """Every part [..., *shape] of packed observations [..., nbytes]: views."""
    found = {}
    for part in parts:
        raw = packed[..., part.offset : part.offset + part.array.nbytes]
        found[part.name] = raw.view(part.array.dtype).reshape(*packed.shape[:-1], *part.array.shape)
    return found


def pack(values: Mapping[str, Any], parts: Sequence[ObservationPart], size: int, leading: tuple[int, ...]) -> Array:
    """Arrays by part as bytes [*leading, size]. Raises KeyError where one is missing, ValueError for another shape."""
    packed = np.zeros((*leading, size), np.uint8)
    for name, view in unpack(packed, parts).items():
        view[...] = values[name]
    return packed


class PackedEnvs(gym.vector.VectorWrapper[Any, Any, Any]):
    """A vector environment whose observations are bytes [B, nbytes] that `parts` explain.

    With `mask_from_info` the environment's `info["action_mask"]` is one of the parts; all actions are legal where it
    says nothing.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any], env_id: str, mask_from_info: int = 0) -> None:
        super().__init__(envs)
        self.array, self.parts = observation_of(env_id, envs.single_observation_space, mask_from_info)
        self._mask_from_info = bool(mask_from_info)
        self._starts = dict(_starts(envs.single_observation_space, ""))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """As the environment's, packed."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._packed(obs, info), info

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """As the environment's, packed."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        return self._packed(obs, info), reward, terminated, truncated, info

    def _packed(self, obs: Any, info: Mapping[str, Any]) -> Array:
        values = dict(_arrays(self.env.single_observation_space, obs, ""))
        for name, start in self._starts.items():
            values[name] = values[name] - start
        if self._mask_from_info:
            values[MASK] = mask_of(info, self.parts[-1].array, self.num_envs)
        return pack(values, self.parts, self.array.shape[0], (self.num_envs,))


def mask_of(info: Mapping[str, Any], array: ArraySpec, num_envs: int) -> Array:
    """Flags of legal actions [B, A], uint8, of a vector environment's info; ones where an environment gave none."""
    mask = np.ones((num_envs, *array.shape), np.uint8)
    if MASK in info:
        given = np.asarray(info.get(f"_{MASK}", np.ones(num_envs, bool)))
        told = np.stack([np.asarray(m) if g else np.ones(array.shape) for m, g in zip(info[MASK], given, strict=True)])
        mask[:] = told.reshape(mask.shape) != 0
    return mask


def _arrays(space: spaces.Space[Any], obs: Any, name: str) -> Iterator[tuple[str, Array]]:
    """Every array [B, ...] of a row of observations, by the name of its part."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _arrays(inner, obs[key], f"{name}.{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _arrays(inner, obs[i], f"{name}.{i}" if name else str(i))
    elif isinstance(space, spaces.MultiDiscrete) and name != MASK:
        flat = np.asarray(obs).reshape(len(obs), -1)
        for i in range(flat.shape[1]):
            yield f"{name or 'observation'}.{i}", flat[:, i]
    else:
        yield name or "observation", np.asarray(obs)


def _starts(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, int]]:
    """Parts whose integers do not begin at 0, and where they begin."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, inner in keys:
            yield from _starts(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(space, spaces.Discrete) and space.start:
        yield name or "observation", int(space.start)
    elif isinstance(space, spaces.MultiDiscrete) and name != MASK:
        yield from ((f"{name or 'observation'}.{i}", int(s)) for i, s in enumerate(space.start.ravel()) if s)
