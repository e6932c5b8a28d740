"""What an algorithm's items look like, found by acting on zeros; the learner asks the table for it, the wire checks it.

An unroll's own columns are fixed here: obs [T + 1, B, ...] as the environment's spec says; action, reward, discount
and valid [T, B]. Behaviour columns are whatever the policy's steps bring; one that remembers adds `memory` [1, B, M].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.algorithms.contract import Algorithm
from core.specs import ArraySpec, ColumnSpec, EnvSpec, Signature
from core.types import Array, Episodes, Rows, Task

MEMORY = "memory"
"""Column [1, B, M] of a recurrent policy's memory at the unroll's first row; it has no other rows."""
DRY_ROWS = 3  # enough to tell T rows from T + 1 and from an item with a row of its own


def unroll_signature(spec: EnvSpec, behaviour: Mapping[str, ArraySpec], rows: int, envs: int) -> Signature:
    """The signature of unrolls that record `behaviour` columns beside their own."""
    columns = {
        "obs": ColumnSpec(spec.observation, extra_rows=1),
        "action": ColumnSpec(spec.action.array),
        "reward": ColumnSpec(ArraySpec((), "float32")),
        "discount": ColumnSpec(ArraySpec((), "float32")),
        "valid": ColumnSpec(ArraySpec((), "uint8")),
    }
    return Signature({**columns, **{name: ColumnSpec(array) for name, array in behaviour.items()}}, rows, envs)


def item_signature(algorithm: Algorithm, network: Any, spec: EnvSpec, envs: int) -> Signature:
    """The signature of the algorithm's items from an actor with `envs` environments. Leaves the network as it was."""
    collect = algorithm.plan().collect
    rows = collect.max_rows if isinstance(collect, Episodes) else collect.rows
    task = Task(seed=0, slot=0, slots=1, round=0)
    step = algorithm.policy(network, task)(np.zeros((envs, *spec.observation.shape), spec.observation.dtype), None)
    behaviour = {name: _spec(column, axes=1) for name, column in step.columns.items()}
    unroll = zeros(unroll_signature(spec, behaviour, DRY_ROWS, envs))
    unroll["action"][:], unroll["discount"][:], unroll["valid"][:] = spec.action.start, 1, 1
    if step.memory is not None and isinstance(collect, Rows):
        unroll[MEMORY] = np.zeros((1, *step.memory.shape), step.memory.dtype)
    item = algorithm.item(network, unroll, task)
    least = min(len(column) for name, column in item.items() if name != MEMORY)
    columns = {name: ColumnSpec(_spec(column, axes=2), len(column) - least) for name, column in item.items()}
    if least == DRY_ROWS:
        least = rows
    if MEMORY in item:
        columns[MEMORY] = ColumnSpec(_spec(item[MEMORY], axes=2), 1 - least)
    return Signature(columns, least, max(c.shape[1] for c in item.values()))


def zeros(signature: Signature) -> dict[str, Array]:
    """Columns of the largest size that `signature` allows, all zero."""
    return {
        name: np.zeros(
            (signature.max_rows + column.extra_rows, signature.max_envs, *column.array.shape), column.array.dtype
        )
        for name, column in signature.columns.items()
    }


def _spec(column: Array, axes: int) -> ArraySpec:
    return ArraySpec(tuple(column.shape[axes:]), column.dtype.name)
