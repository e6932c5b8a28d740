"""Experts: whoever knows the right action for an observation. A run of Shoal, or any function. Read by dagger."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core import checkpoint
from core.errors import CheckpointError, ConfigError
from core.plugins import import_modules
from core.rl.optim import flatten
from core.specs import EnvSpec
from core.types import Array, Task

Expert = Callable[[Array], Array]
"""From observations [N, ...] to the environment's own actions [N, ...]."""


def load_expert(name: str, spec: EnvSpec) -> Expert:
    """The expert of that name: a run directory (its best checkpoint), or package.module:function.

    Raises ConfigError where there is none, or it is for another kind of environment.
    """
    module, colon, function = name.rpartition(":")
    if colon and module and not Path(name).exists():
        return _function(name, module, function)
    folder = Path(name)
    try:
        saved = checkpoint.read(checkpoint.best(folder / "checkpoints"))
    except CheckpointError as error:
        raise ConfigError(
            f"expert: {name!r} is neither a run directory with a checkpoint nor package.module:function ({error}); "
            "train one first, such as shoal train --algorithm ppo --run-dir runs/expert"
        ) from error
    return _run(name, saved, spec)


def _function(name: str, module: str, function: str) -> Expert:
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"expert: {name!r} cannot be imported: {error}; every actor needs it on its path") from error
    if not callable(found):
        raise ConfigError(f"expert: {name!r} is a {type(found).__name__}, a function of observations is needed")
    expert: Expert = found
    return expert


def _run(name: str, saved: checkpoint.Checkpoint, spec: EnvSpec) -> Expert:
    from core.algorithms import make  # the registry imports dagger, which imports this

    meta = saved.meta
    own = EnvSpec.from_plain(meta["env_spec"])
    if (own.observation, own.parts, own.action) != (spec.observation, spec.parts, spec.action):
        raise ConfigError(
            f"expert: {name!r} was trained on {own.id} with observations {own.observation.dtype}"
            f"{list(own.observation.shape)} and actions {own.action}; {spec.id} has {spec.observation.dtype}"
            f"{list(spec.observation.shape)} and {spec.action}: take an expert of this environment"
        )
    import_modules(meta.get("imports") or ())
    algorithm = make(meta["algorithm"], meta["settings"])
    network = algorithm.network(own)
    flatten(network).load(saved.tensors["network"].numpy())
    act = algorithm.policy(network, Task(seed=0, slot=0, slots=1, round=0, explore=False))
    if act(np.zeros((1, *own.observation.shape), own.observation.dtype), None).memory is not None:
        raise ConfigError(
            f"expert: {name!r} has a memory (recurrent), and labels are asked for single observations; take one without"
        )
    return lambda obs: act(obs, None).action
