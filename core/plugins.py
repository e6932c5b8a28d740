"""Modules of the user's own, which every process imports by name: they register algorithms, networks, environments.

Code never travels: learner, actors and evaluation each find the module on their own path, which the current directory
is part of.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable

from core.errors import ConfigError


def modules_of(imports: Iterable[str], names: Iterable[str]) -> list[str]:
    """What has to be imported: `imports`, and the module of each `package.module:factory` among `names`. Sorted."""
    return sorted({*imports, *(name.partition(":")[0] for name in names if ":" in name)})


def import_modules(names: Iterable[str]) -> None:
    """Import every module. Raises ConfigError with all that cannot be imported."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    problems = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            problems.append(
                f"imports: {name!r} cannot be imported: {type(error).__name__}: {error}. Every process needs it, on "
                "each machine: install it there, or start in its folder or with PYTHONPATH"
            )
    ConfigError.raise_if(problems)
