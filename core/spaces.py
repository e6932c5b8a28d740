"""Gymnasium's spaces as specs. Observations of several arrays get a layout for one column of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from core.errors import ConfigError
from core.specs import ActionSpec, ArraySpec, ObservationPart

Space = spaces.Space[Any]
MASK = "action_mask"
"""Name of the part that says which actions are legal."""
ALIGNMENT = 8
"""Bytes; every part starts at a multiple."""


def action_of(env_id: str, space: Space) -> ActionSpec:
    """Raises ConfigError for a space that Shoal does not take."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", ArraySpec((), "int64"), n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        nvec, starts = tuple(map(int, space.nvec)), tuple(map(int, space.start))
        return ActionSpec("multi_discrete", ArraySpec((len(nvec),), "int64"), n=sum(nvec), nvec=nvec, starts=starts)
    if isinstance(space, spaces.Box):
        low, high = (tuple(float(x) for x in bound.ravel()) for bound in (space.low, space.high))
        return ActionSpec("box", ArraySpec(space.shape, "float32"), low=low, high=high)
    raise ConfigError(
        f"environment {env_id!r} acts in {space}; Shoal takes Discrete, MultiDiscrete (one axis) and Box actions: wrap "
        "the environment (env_wrappers)"
    )


def observation_of(env_id: str, space: Space, mask: int = 0) -> tuple[ArraySpec, tuple[ObservationPart, ...]]:
    """The column's array, and the parts packed in it; none for a single array of numbers.

    With `mask` a further part holds so many flags of legal actions. Raises ConfigError for a space that Shoal does not
    take.
    """
    if isinstance(space, spaces.Box) and not mask:
        return array_of(space), ()
    parts, offset = [], 0
    leaves = list(_leaves(env_id, space, ""))
    if mask:
        leaves.append((MASK, ArraySpec((mask,), "uint8"), 0))
    for name, array, n in leaves:
        parts.append(ObservationPart(name, array, offset, n))
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return ArraySpec((offset,), "uint8"), tuple(parts)


def array_of(space: spaces.Box) -> ArraySpec:
    """uint8 and float32 as they are, everything else as float32."""
    dtype = space.dtype.name if space.dtype.name in ("uint8", "float32") else "float32"
    return ArraySpec(space.shape, dtype)


def _leaves(env_id: str, space: Space, name: str) -> Iterator[tuple[str, ArraySpec, int]]:
    """(name, array, n) of every array in a space, in the space's own order."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(env_id, inner, f"{name}.{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _leaves(env_id, inner, f"{name}.{i}" if name else str(i))
    elif name == MASK:
        yield name, ArraySpec((int(np.prod(space.shape or ())),), "uint8"), 0
    elif isinstance(space, spaces.Box):
        yield name or "observation", array_of(space), 0
    elif isinstance(space, spaces.MultiBinary):
        yield name or "observation", ArraySpec(tuple(space.shape), "float32"), 0
    elif isinstance(space, spaces.Discrete):
        yield name or "observation", ArraySpec((), "int64"), int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        for i, n in enumerate(space.nvec.ravel()):
            yield f"{name or 'observation'}.{i}", ArraySpec((), "int64"), int(n)
    else:
        raise ConfigError(
            f"environment {env_id!r} observes {space}{' as ' + name if name else ''}; Shoal takes Box, Discrete, "
            "MultiDiscrete, MultiBinary, and Dict and Tuple of those: wrap the environment (env_wrappers)"
        )
