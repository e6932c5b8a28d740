"""Shoal: distributed reinforcement learning with many actors, a replay server and a learner.

    import shoal
    result = shoal.train(algorithm="ppo", env="CartPole-v1", env_steps=100_000)
    policy = shoal.load(result.run_dir)
    action = policy.act(obs)

Everything is imported when it is first used, so `import shoal` itself is light.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from shoal.guard import check_sisters

check_sisters(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from core.config import Config
    from core.errors import (
        CheckpointError,
        CodecError,
        ConfigError,
        DeadlineError,
        DivergedError,
        EnvironmentFailedError,
        ForbiddenError,
        ItemRejectedError,
        PeerIncompatibleError,
        PeerLostError,
        RateLimitedError,
        ReplayError,
        SchemaError,
        SeatLostError,
        ShoalError,
        TableClosedError,
        TableNotFoundError,
        TooLargeError,
        TransportError,
        UnauthenticatedError,
        UnavailableError,
        WeightsCorruptError,
        WeightsError,
        WeightsRegressedError,
        WireError,
    )
    from shoal.collecting import collect
    from shoal.policy import Policy, load
    from shoal.registry import register
    from shoal.replay_client import ReplayClient
    from shoal.training import RunResult, train

_HOMES = {
    "Config": "core.config",
    "Policy": "shoal.policy",
    "load": "shoal.policy",
    "ReplayClient": "shoal.replay_client",
    "register": "shoal.registry",
    "collect": "shoal.collecting",
} | dict.fromkeys(("RunResult", "train"), "shoal.training")

__all__ = [
    "CheckpointError",
    "CodecError",
    "Config",
    "ConfigError",
    "DeadlineError",
    "DivergedError",
    "EnvironmentFailedError",
    "ForbiddenError",
    "ItemRejectedError",
    "PeerIncompatibleError",
    "PeerLostError",
    "Policy",
    "RateLimitedError",
    "ReplayClient",
    "ReplayError",
    "RunResult",
    "SchemaError",
    "SeatLostError",
    "ShoalError",
    "TableClosedError",
    "TableNotFoundError",
    "TooLargeError",
    "TransportError",
    "UnauthenticatedError",
    "UnavailableError",
    "WeightsCorruptError",
    "WeightsError",
    "WeightsRegressedError",
    "WireError",
    "__version__",
    "collect",
    "load",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "core.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
