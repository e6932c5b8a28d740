"""Minari datasets as columns: an episode's rows and, below them, the row on which an environment would reset.

Needs minari and h5py (pip install 'shoal[datasets]'), which are imported when they are first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from core.errors import ConfigError
from core.packing import pack
from core.spaces import action_of, observation_of
from core.specs import ActionSpec, EnvSpec
from core.types import Array


def minari() -> ModuleType:
    """The package. Raises ConfigError without it."""
    try:
        importlib.import_module("h5py")
        return importlib.import_module("minari")
    except ImportError as error:
        raise ConfigError(f"Minari datasets need minari and h5py ({error}): pip install 'shoal[datasets]'") from error


def open_fitting(dataset_id: str, spec: EnvSpec) -> Any:
    """The dataset. Raises ConfigError where there is none of that name, or one of another kind of environment."""
    try:
        dataset = minari().load_dataset(dataset_id)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"dataset: there is no Minari dataset {dataset_id!r} here ({error}); `shoal collect RUN --out NAME` makes "
            "one, `minari download NAME` fetches one"
        ) from error
    array, parts = observation_of(dataset_id, dataset.observation_space)
    action = action_of(dataset_id, dataset.action_space)
    if (array, parts) != (spec.observation, spec.parts) or not _same(action, spec.action):
        raise ConfigError(
            f"dataset: {dataset_id!r} has observations {_told(array.shape, array.dtype, parts)} and actions {action}, "
            f"{spec.id} has {_told(spec.observation.shape, spec.observation.dtype, spec.parts)} and {spec.action}: "
            "use the dataset's own environment, or a dataset of this one"
        )
    return dataset


def episodes(dataset: Any, spec: EnvSpec, slot: int, slots: int) -> Iterator[dict[str, Array]]:
    """Every `slots`-th episode from the `slot`-th on, as columns [T + 1, ...] that end with a row that is no step."""
    for number in range(slot, int(dataset.total_episodes), slots):
        yield columns_of(dataset[number], spec)


def columns_of(episode: Any, spec: EnvSpec) -> dict[str, Array]:
    """The columns of one episode of T steps, [T + 1, ...]: the last row has its last observation and is no step."""
    steps = len(episode.rewards)
    columns = {
        "obs": np.zeros((steps + 1, *spec.observation.shape), spec.observation.dtype),
        "action": np.zeros((steps + 1, *spec.action.array.shape), spec.action.array.dtype),
        "reward": np.zeros(steps + 1, np.float32),
        "discount": np.ones(steps + 1, np.float32),
        "valid": np.zeros(steps + 1, np.uint8),
    }
    observations = episode.observations
    if spec.parts:
        observations = pack(_flat(observations, ""), spec.parts, spec.observation.size, (steps + 1,))
    columns["obs"][:] = observations
    columns["action"][:-1], columns["reward"][:-1], columns["valid"][:-1] = episode.actions, episode.rewards, 1
    columns["action"][-1] = columns["action"][-2]  # a legal one
    columns["discount"][:-1] = ~np.asarray(episode.terminations, bool)
    return columns


def _flat(observations: Any, name: str) -> dict[str, Array]:
    if not isinstance(observations, dict):
        return {name: np.asarray(observations)}
    found: dict[str, Array] = {}
    for key, inner in observations.items():
        found |= _flat(inner, f"{name}.{key}" if name else key)
    return found


def _same(one: ActionSpec, other: ActionSpec) -> bool:
    """Bounds of a box may differ: what was recorded is in the box it was recorded in."""
    return (one.kind, one.array, one.n, one.start, one.nvec) == (
        other.kind,
        other.array,
        other.n,
        other.start,
        other.nvec,
    )


def _told(shape: tuple[int, ...], dtype: str, parts: tuple[Any, ...]) -> str:
    return f"of parts {', '.join(part.name for part in parts)}" if parts else f"{dtype}{list(shape)}"
