"""The algorithms by name. Adding one is a file, a line here and an entry in the learning tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from core.algorithms.a2c import A2C
from core.algorithms.a3c import A3C
from core.algorithms.actor_critic import ActorCriticAlgorithm
from core.algorithms.bc import BC
from core.algorithms.contract import Algorithm
from core.algorithms.dagger import Dagger
from core.algorithms.dqn import DQN
from core.algorithms.es import ES
from core.algorithms.finite_difference import FiniteDifference
from core.algorithms.impala import Impala
from core.algorithms.npg import NPG
from core.algorithms.ppo import PPO
from core.algorithms.reinforce import Reinforce
from core.algorithms.trpo import TRPO
from core.errors import ConfigError
from core.fields import build, nearest

REGISTRY: dict[str, type[Any]] = {
    "a2c": A2C,
    "a3c": A3C,
    "actor_critic": ActorCriticAlgorithm,
    "bc": BC,
    "dagger": Dagger,
    "dqn": DQN,
    "es": ES,
    "finite_difference": FiniteDifference,
    "impala": Impala,
    "npg": NPG,
    "ppo": PPO,
    "reinforce": Reinforce,
    "trpo": TRPO,
}
"""Name -> class with an attribute `Config` (a dataclass of settings) that it is made from."""


def register(name: str, algorithm: type[Any]) -> None:
    """Make `--algorithm NAME` mean that class. Raises ConfigError where the name is another's or it has no Config."""
    if not name.isidentifier() or REGISTRY.get(name, algorithm) is not algorithm:
        raise ConfigError(
            f"algorithm {name!r}: must be a Python name that no other algorithm has; there are "
            f"{', '.join(sorted(REGISTRY))}"
        )
    config = getattr(algorithm, "Config", None)
    if not (dataclasses.is_dataclass(config) and isinstance(config, type)):
        raise ConfigError(
            f"algorithm {name!r}: {algorithm.__name__} needs an attribute Config, a dataclass of its settings "
            f"(core.fields.Settings), not {config!r}"
        )
    REGISTRY[name] = algorithm


def make(name: str, settings: Mapping[str, Any]) -> Algorithm:
    """The algorithm with those settings; the rest keep their defaults.

    Raises ConfigError for an unknown name, or with every problem of the settings.
    """
    if name not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise ConfigError(f"no algorithm {name!r}{nearest(name, REGISTRY)} (there are {known})")
    config, problems = build(REGISTRY[name].Config, settings, name)
    ConfigError.raise_if(problems)
    algorithm: Algorithm = REGISTRY[name](config)
    return algorithm
