"""Vector environments as Shoal uses them: native where gymnasium has one, otherwise its sync one; NEXT_STEP autoreset.

Called by actors, by the learner (once, for the spec) and by evaluation.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from core.errors import ConfigError
from core.specs import ActionSpec, ArraySpec, EnvSpec

Env = VectorEnv[Any, Any, Any]

TRAINING, EVALUATION = 0, 1


def make(env_id: str, num_envs: int, kwargs: Mapping[str, Any] | None = None) -> Env:
    """A vector environment. Raises ConfigError for an unknown id, a failed construction or SAME_STEP autoreset."""
    native = _registered(env_id).vector_entry_point is not None
    mode = "vector_entry_point" if native else "sync"
    try:
        # the sync environment's own copy of the observations is not needed: the unroller copies them into its columns
        vector_kwargs = None if native else {"copy": False}
        envs = gym.make_vec(env_id, num_envs, vectorization_mode=mode, vector_kwargs=vector_kwargs, **(kwargs or {}))
    except Exception as error:
        raise ConfigError(
            f"environment {env_id!r} cannot be made with {dict(kwargs or {})}: {type(error).__name__}: {error}"
        ) from error
    if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise ConfigError(
            f"environment {env_id!r} resets with {envs.metadata.get('autoreset_mode')}; Shoal needs NEXT_STEP, "
            "because only there every row has its true next observation: construct it with autoreset_mode=NEXT_STEP"
        )
    return envs


def _registered(env_id: str) -> gym.envs.registration.EnvSpec:
    module, _, name = env_id.rpartition(":")  # gymnasium's "package.module:Name-v0"
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "is its package installed and imported?"
        raise ConfigError(f"unknown environment {env_id!r}: {hint} ({error})") from error


def spec_of(env_id: str, envs: Env) -> EnvSpec:
    """What a network must know of the environment. Raises ConfigError for spaces that Shoal does not take."""
    return EnvSpec(
        env_id, _observation(env_id, envs.single_observation_space), _action(env_id, envs.single_action_space)
    )


def _observation(env_id: str, space: spaces.Space[Any]) -> ArraySpec:
    if not isinstance(space, spaces.Box):
        raise ConfigError(f"environment {env_id!r} observes {space}; Shoal takes Box observations")
    dtype = space.dtype.name if space.dtype.name in ("uint8", "float32") else "float32"
    return ArraySpec(space.shape, dtype)


def _action(env_id: str, space: spaces.Space[Any]) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", ArraySpec((), "int64"), n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box):
        low, high = (tuple(float(x) for x in bound.ravel()) for bound in (space.low, space.high))
        return ActionSpec("box", ArraySpec(space.shape, "float32"), low=low, high=high)
    raise ConfigError(f"environment {env_id!r} acts in {space}; Shoal takes Discrete and Box actions")


def seed_of(run_seed: int, slot: int, purpose: int = TRAINING, first_round: int = 0) -> int:
    """The seed of one vector environment, by purpose, slot and the round in which a life begins: 31 bits of a hash."""
    return int(np.random.SeedSequence([run_seed, purpose, slot, first_round]).generate_state(1)[0] >> 1)


def clip_action(action: Any, spec: ActionSpec) -> Any:
    """Box actions clipped to their bounds; discrete ones as they are. The stored action is the unclipped one."""
    if spec.kind == "discrete":
        return action
    low, high = (np.asarray(bound, np.float32).reshape(spec.array.shape) for bound in (spec.low, spec.high))
    return np.clip(action, low, high)
