"""Vector environments as Shoal uses them: native where there are such, otherwise gymnasium's sync one; NEXT_STEP.

Called by actors, by the learner (once, for the spec) and by evaluation. An environment's name is gymnasium's id,
`package.module:Id-v0` (imported first), `package.module:factory`, or one that was registered here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from core import atari
from core.errors import ConfigError
from core.packing import PackedEnvs
from core.spaces import MASK, action_of, observation_of
from core.specs import ActionSpec, EnvSpec

Env = VectorEnv[Any, Any, Any]
Factory = Callable[..., Any]
"""`factory(**kwargs)` gives one gymnasium environment; with a parameter `num_envs`, a vector environment."""

TRAINING, EVALUATION = 0, 1

_FACTORIES: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Make `--env NAME` mean that factory. Raises ConfigError where the name is another's."""
    if _FACTORIES.get(name, factory) is not factory or name in gym.registry:
        raise ConfigError(f"environment {name!r}: there is one of that name already; choose another")
    _FACTORIES[name] = factory


def make(env_id: str, num_envs: int, kwargs: Mapping[str, Any] | None = None, wrappers: Sequence[str] = ()) -> Env:
    """A vector environment, its observations packed where they are several arrays.

    `wrappers` are names of gymnasium's wrappers or `package.module:Class`, the innermost first; they wrap each single
    environment. Raises ConfigError for an unknown id, a failed construction or another autoreset.
    """
    factory = _factory(env_id)
    kwargs = dict(kwargs or {})
    chain = [_wrapper(name) for name in wrappers]
    lives = False
    try:
        if factory is not None:
            envs = _from_factory(env_id, factory, num_envs, kwargs, chain)
        else:
            native = not chain and _registered(env_id).vector_entry_point is not None
            if native and env_id.startswith(atari.PREFIX):
                kwargs, lives = atari.kwargs_of(env_id, kwargs)
            # the sync environment's own copy of the observations is not needed: the unroller copies them itself
            vector_kwargs = None if native else {"copy": False}
            mode = "vector_entry_point" if native else "sync"
            envs = gym.make_vec(
                env_id,
                num_envs,
                vectorization_mode=mode,
                vector_kwargs=vector_kwargs,
                wrappers=chain or None,
                **kwargs,
            )
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"environment {env_id!r} cannot be made with {kwargs}: {type(error).__name__}: {error}"
        ) from error
    if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise ConfigError(
            f"environment {env_id!r} resets with {envs.metadata.get('autoreset_mode')}; Shoal needs NEXT_STEP, "
            "because only there every row has its true next observation: construct it with autoreset_mode=NEXT_STEP"
        )
    return _packed(env_id, atari.LivesTold(envs) if lives else envs)


def spec_of(env_id: str, envs: Env) -> EnvSpec:
    """What a network must know of the environment. Raises ConfigError for spaces that Shoal does not take."""
    action = action_of(env_id, envs.single_action_space)
    if isinstance(envs, PackedEnvs):
        return EnvSpec(env_id, envs.array, action, envs.parts)
    return EnvSpec(env_id, observation_of(env_id, envs.single_observation_space)[0], action)


def _packed(env_id: str, envs: Env) -> Env:
    """Itself where it observes one array and says nothing of legal actions."""
    parts = observation_of(env_id, envs.single_observation_space)[1]
    action = action_of(env_id, envs.single_action_space)
    mask = 0
    discrete = action.kind in ("discrete", "multi_discrete")
    if discrete and MASK not in {part.name for part in parts} and not env_id.startswith(atari.PREFIX):
        _, info = envs.reset(seed=0)
        mask = action.n if MASK in info else 0
    for part in parts:
        if part.name == MASK and (not discrete or part.array.shape != (action.n,)):
            raise ConfigError(
                f"environment {env_id!r} gives an action mask of {part.array.shape}, its actions are {action}: a mask "
                "has one flag for each discrete choice"
            )
    return PackedEnvs(envs, env_id, mask) if parts or mask else envs


def _factory(env_id: str) -> Factory | None:
    """The callable that makes the environment, where it is no id of gymnasium's."""
    if env_id in _FACTORIES:
        return _FACTORIES[env_id]
    module, _, name = env_id.rpartition(":")
    if not module:
        return None
    found = getattr(_imported(env_id, module), name, None)
    return found if callable(found) else None


def _from_factory(env_id: str, factory: Factory, num_envs: int, kwargs: Mapping[str, Any], chain: list[Factory]) -> Env:
    if "num_envs" not in inspect.signature(factory).parameters:

        def one() -> Any:
            env = factory(**kwargs)
            for wrapper in chain:
                env = wrapper(env)
            return env

        return SyncVectorEnv([one] * num_envs, copy=False)
    envs = factory(num_envs=num_envs, **kwargs)
    if chain:
        raise ConfigError(
            f"env_wrappers: {env_id!r} makes all its environments at once, so there is no single one to wrap; have its "
            "factory do it, or give it no parameter num_envs"
        )
    if not isinstance(envs, VectorEnv):
        raise ConfigError(
            f"environment {env_id!r} made a {type(envs).__name__}; a factory with a parameter num_envs must make a "
            "gymnasium.vector.VectorEnv, one without makes a single gymnasium.Env"
        )
    return envs


def _wrapper(name: str) -> Factory:
    """A wrapper's class by its name."""
    module, _, cls = name.rpartition(":")
    found = getattr(_imported(name, module) if module else gym.wrappers, cls, None)
    if not callable(found):
        near = difflib.get_close_matches(cls, dir(gym.wrappers), n=3) if not module else []
        hint = f"did you mean {' or '.join(near)}?" if near else "write package.module:Class for one of your own"
        raise ConfigError(f"env_wrappers: there is no wrapper {name!r}: {hint}")
    factory: Factory = found
    return factory


def _imported(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"unknown environment or wrapper {name!r}: its module cannot be imported: {error}; is it on the PYTHONPATH?"
        ) from error


def _registered(env_id: str) -> gym.envs.registration.EnvSpec:
    name = env_id.rpartition(":")[2]  # gymnasium's "package.module:Name-v0"; the module was imported above
    if name.startswith(atari.PREFIX):
        atari.register()
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        near = difflib.get_close_matches(env_id, [*gym.registry, *_FACTORIES], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "is its package installed and imported?"
        raise ConfigError(f"unknown environment {env_id!r}: {hint} ({error})") from error


def seed_of(run_seed: int, slot: int, purpose: int = TRAINING, first_round: int = 0) -> int:
    """The seed of one vector environment, by purpose, slot and the round in which a life begins: 31 bits of a hash."""
    return int(np.random.SeedSequence([run_seed, purpose, slot, first_round]).generate_state(1)[0] >> 1)


def clip_action(action: Any, spec: ActionSpec) -> Any:
    """Box actions clipped to their bounds; discrete ones as they are. The stored action is the unclipped one."""
    if spec.kind != "box":
        return action
    low, high = (np.asarray(bound, np.float32).reshape(spec.array.shape) for bound in (spec.low, spec.high))
    return np.clip(action, low, high)
