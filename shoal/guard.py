"""Is Shoal's own `core` the one that Python would import? A user's module of the same name must not shadow it."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec

SISTERS = ("core", "learner", "actors", "replay_server", "protos")


def check_sisters(home: str) -> None:
    """Raise ImportError unless all of Shoal's packages come from the folder `home`, where `shoal` is."""
    for name in SISTERS:
        found = _place(name)
        expected = os.path.join(home, name)
        if found is None:
            raise ImportError(f"Shoal's package {name!r} is missing beside {home}{os.sep}shoal: install Shoal again")
        if os.path.realpath(found) not in (
            os.path.realpath(expected),
            os.path.join(os.path.realpath(expected), "__init__.py"),
        ):
            raise ImportError(
                f"{found} hides Shoal's own package {name!r} ({expected}): rename it, or start Python where it is not "
                f"on the path (it is found before Shoal's through sys.path or PYTHONPATH)",
                name="shoal",  # so that `python -m shoal` says it in one line, without a traceback
            )


def _place(name: str) -> str | None:
    """The file or folder that `import name` gives; nothing is imported."""
    module = sys.modules.get(name)
    try:
        spec: ModuleSpec | None = getattr(module, "__spec__", None) if module else importlib.util.find_spec(name)
    except ValueError:
        spec = None
    if spec is None:
        return getattr(module, "__file__", None) or (repr(module) if module else None)
    if spec.has_location and spec.origin:
        return spec.origin
    folders = list(spec.submodule_search_locations or ())
    return folders[0] if folders else spec.origin
