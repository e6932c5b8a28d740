"""From flags, files and `--set` to a checked `Config`; every problem is reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import config as configuration
from core.config import Config
from core.errors import ConfigError

FLAGS: Mapping[str, str] = {
    "algorithm": "algorithm",
    "env": "env",
    "imports": "imports",
    "actors": "actors",
    "envs_per_actor": "envs_per_actor",
    "env_steps": "env_steps",
    "seed": "seed",
    "run_dir": "run_dir",
    "target_return": "target_return",
    "policy_lag": "policy_lag",
    "replay": "replay",
    "data_dir": "replay_data_dir",
    "device": "device",
    "listen": "network.listen",
    "page": "network.page",
}
"""Settings that have a flag, and a keyword of `train`, of their own -> their names in the tree."""


def read(
    file: Path | None, flags: Mapping[str, Any], sets: Sequence[str] = (), more: Mapping[str, Any] | None = None
) -> Config:
    """The settings of a run. `flags` by the names of `FLAGS`, None where not given; `more` by dotted names.

    Raises ConfigError with every problem. Only then the algorithm's own settings are checked here, because that takes
    the import of torch; otherwise the learner does it.
    """
    given = {FLAGS[name]: value for name, value in flags.items() if value is not None} | dict(more or {})
    config, problems = configuration.read(file, given, sets)
    if config is None or problems:
        raise ConfigError(*_all_problems(file, given, sets))
    return config


def _all_problems(file: Path | None, given: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    """Those of the tree, and those of the algorithm's section."""
    from core.algorithms import REGISTRY, make
    from core.plugins import import_modules

    config, _ = configuration.read(file, given, sets)
    if config is not None:
        import_modules(config.imports)
    config, problems = configuration.read(file, given, sets, algorithms=REGISTRY)
    if config is not None and config.algorithm in REGISTRY:
        try:
            make(config.algorithm, config.settings)
        except ConfigError as error:
            problems += error.problems
    return problems
