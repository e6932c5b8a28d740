"""Replay tables in a user's words: columns by example, stacks and n-step as windows. Pure."""

from __future__ import annotations

import dataclasses
import numbers
import operator
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from core.errors import ConfigError
from core.specs import ArraySpec, ColumnSpec, Signature
from replay_server.definition import MOST, ReplayDefinition, Sampler

ADDED = {"discount": "float32", "valid": "uint8"}
"""Columns that every table of a ReplayClient has; ones where they are not inserted."""
PRIORITY = "priority"
"""A column that tells an item's first priority, and is not handed out. Where it is not inserted: the largest so far."""
RESERVED = ("key", "probability")
WINDOW = ("before", "after", "stack", "n_step")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def signature(
    columns: Mapping[str, Any], max_rows: int, max_envs: int, first_row_only: Collection[str] = ()
) -> Signature:
    """Columns as (dtype, shape), as a dtype (of a number), or as anything with both: an array of one row, a space.

    `obs` and `obs.<name>` have a row more than the others: what was observed last. Raises ConfigError.
    """
    problems: list[str] = []
    specs: dict[str, ColumnSpec] = {}
    for name, given in columns.items():
        if not NAME.fullmatch(name) or name in RESERVED:
            problems.append(f"{name!r} cannot be a column: use letters, digits, '_', '-' and '.', not {RESERVED}")
            continue
        try:
            specs[name] = given if isinstance(given, ColumnSpec) else _column(name, given)
        except (TypeError, ValueError) as error:
            problems.append(
                f"column {name!r} is {given!r}: give (dtype, (n, ...)), a dtype or an example array ({error})"
            )
    for name in first_row_only:
        if name in specs:
            specs[name] = dataclasses.replace(specs[name], window_rows="first")
        else:
            problems.append(f"first_row_only names {name!r}, which is none of the columns {sorted(columns)}")
    if not columns:
        problems.append("a table without columns: give at least one")
    if "valid" in specs and specs["valid"].array.shape:
        problems.append(f"column 'valid' is {columns['valid']!r}: it has one number a row; leave it out")
    ConfigError.raise_if(problems)
    for name, dtype in ADDED.items():
        specs.setdefault(name, ColumnSpec(ArraySpec((), dtype)))
    return Signature(specs, max_rows, max_envs)


def _column(name: str, given: Any) -> ColumnSpec:
    if hasattr(given, "dtype") and hasattr(given, "shape"):
        dtype, shape = given.dtype, given.shape
    elif isinstance(given, tuple):
        dtype, shape = given
    else:
        dtype, shape = given, ()
    array = ArraySpec(tuple(int(n) for n in shape), np.dtype(dtype).name)
    return ColumnSpec(array, extra_rows=int(has_last_row(name)))


def has_last_row(name: str) -> bool:
    """Whether a column of that name has the row below its last one."""
    return name == "obs" or name.startswith("obs.")


def whole(name: str, number: Any, least: int, most: int = MOST) -> int:
    """`number` as an int; floats that are whole, such as 1e5, and NumPy's numbers too. Raises ConfigError."""
    try:
        given = operator.index(number)
    except TypeError:
        fits = isinstance(number, numbers.Real) and float(number).is_integer()
        given = int(number) if fits else least - 1
    if not least <= given <= most:
        raise ConfigError(f"{name} is {number!r}: give a whole number from {least} to {most:,}")
    return int(given)


def _counts(given: Mapping[str, Any], least: int, problems: list[str]) -> dict[str, int]:
    """As ints, without those of a window that are not given."""
    found = {}
    for name, number in given.items():
        try:
            if number is not None or name not in WINDOW:
                found[name] = whole(name, number, least)
        except ConfigError as error:
            problems.extend(error.problems)
    return found


def _real(name: str, number: object, problems: list[str]) -> float:
    if isinstance(number, numbers.Real):
        return float(number)
    problems.append(f"{name} is {number!r}: give a number")
    return 0.0


def definition(
    name: str,
    columns: Mapping[str, Any],
    *,
    capacity: int,
    batch_size: int = 256,
    max_batches: int = 1,
    min_size: int = 1,
    samples_per_insert: float = 0.0,
    error_buffer: float = 0.0,
    sampler: Sampler = "uniform",
    priority_exponent: float = 0.6,
    max_times_sampled: int = 0,
    before: int | None = None,
    after: int | None = None,
    stack: int | None = None,
    n_step: int | None = None,
    max_rows: int = 64,
    max_envs: int = 1,
    writers: int = 1,
    capacity_bytes: int = 0,
    evict: bool = True,
    spare_rows: int = 0,
    first_row_only: Collection[str] = (),
) -> ReplayDefinition:
    """The definition that `ReplayClient.create_table` sends. Raises ConfigError with all problems.

    Samples have only the first row of the windows of `first_row_only`. docs/replay.md has all the others.
    """
    problems: list[str] = []
    if not NAME.fullmatch(name):
        problems.append(f"{name!r} cannot be a table's name: use letters, digits, '_', '-' and '.', at most 100")
    if before is not None and stack is not None:
        problems.append(f"before {before} and stack {stack}: a stack of n frames is before n - 1; give one of them")
    if after is not None and n_step is not None:
        problems.append(f"after {after} and n_step {n_step}: they are the same number; give one of them")
    if sampler not in ("uniform", "prioritised"):
        problems.append(f"sampler {sampler!r}: choose 'uniform' or 'prioritised'")
    if PRIORITY in columns and sampler != "prioritised":
        problems.append("a column 'priority' is for sampler 'prioritised'; leave it out or choose that sampler")
    if evict not in (True, False):
        problems.append(f"evict is {evict!r}: give True or False")
    sizes = {"capacity": capacity, "batch_size": batch_size, "max_batches": max_batches, "min_size": min_size}
    pieces = {"max_rows": max_rows, "max_envs": max_envs, "writers": writers}
    windows = {"stack": stack, "after": after, "n_step": n_step}
    others = {"before": before, "max_times_sampled": max_times_sampled}
    others |= {"capacity_bytes": capacity_bytes, "spare_rows": spare_rows}
    n = _counts({**sizes, **pieces, **windows}, 1, problems) | _counts(others, 0, problems)
    samples_per_insert = _real("samples_per_insert", samples_per_insert, problems)
    error_buffer = _real("error_buffer", error_buffer, problems)
    priority_exponent = _real("priority_exponent", priority_exponent, problems)
    ConfigError.raise_if(problems)
    return ReplayDefinition(
        name=name,
        signature=signature(columns, n["max_rows"], n["max_envs"], first_row_only),
        capacity=n["capacity"],
        batch_size=n["batch_size"],
        max_batches=n["max_batches"],
        min_size=n["min_size"],
        samples_per_insert=samples_per_insert,
        before=n["stack"] - 1 if "stack" in n else n.get("before", 0),
        after=n.get("n_step", n.get("after", 1)),
        writers=n["writers"],
        error_buffer=error_buffer,
        sampler=sampler,
        priority_exponent=priority_exponent,
        max_times_sampled=n["max_times_sampled"],
        capacity_bytes=n["capacity_bytes"],
        evict=bool(evict),
        spare_rows=n["spare_rows"],
    )
