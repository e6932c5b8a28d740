"""From a table's definition to its parts: everything that does not fit is found here, all of it at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from core.errors import ConfigError, SchemaError
from core.mapped import UNSTORED
from core.specs import Signature
from core.types import Columns
from replay_server.definition import ON_DISK, ReplayDefinition
from replay_server.layout import RingLayout, fit_ring, ring_bytes
from replay_server.limiter import RateLimiter
from replay_server.ring import Ring
from replay_server.samplers import MAX_EXPONENT, PrioritisedSampler, UniformSampler

MOST_DRAW_BYTES = 256 << 20
RESERVED = ("key", "probability")
"""Names that a sample gives to columns of its own."""


class Parts(NamedTuple):
    """What a replay table is made of."""

    layout: RingLayout
    limiter: RateLimiter


def plan(definition: ReplayDefinition) -> Parts:
    """The ring's numbers and the limiter. ConfigError says all that does not fit."""
    problems = _problems(definition)
    layout = limiter = None
    try:
        layout = _layout(definition)
        problems += _draw_problems(definition, layout)
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        limiter = _limiter(definition)
    except ConfigError as error:
        problems.extend(error.problems)
    ConfigError.raise_if(f"table {definition.name!r}: {problem}" for problem in problems)
    assert layout is not None
    assert limiter is not None
    return Parts(layout, limiter)


def make_sampler(definition: ReplayDefinition, ring: Ring) -> UniformSampler | PrioritisedSampler:
    """The one that a table is defined with, told of the ring's items from now on."""
    if definition.sampler == "uniform":
        ring.index = None
        return UniformSampler()
    sampler = PrioritisedSampler(ring.layout.cells, definition.priority_exponent)
    sampler.bind(ring)
    ring.index = sampler
    return sampler


def table_bytes(definition: ReplayDefinition) -> int:
    """Bytes that the table will take. Raises ConfigError."""
    return ring_bytes(
        *(definition.signature, _layout(definition)),
        priorities=definition.sampler == "prioritised",
        count_times=definition.max_times_sampled > 0,
    )


def window_bytes(definition: ReplayDefinition) -> int:
    """Bytes of one item as it is handed out."""
    rows = definition.before + definition.after
    return sum(
        column.array.nbytes * (1 if column.window_rows == "first" else rows + column.extra_rows)
        for name, column in definition.signature.columns.items()
        if name != UNSTORED
    )


def check_change(name: str, changed: Mapping[str, str]) -> None:
    """Raises ConfigError where a table's files cannot follow."""
    fixed = [f"{field}: {change}" for field, change in changed.items() if field in ON_DISK]
    if fixed:
        raise ConfigError(
            f"table {name!r} exists and cannot change {', '.join(fixed)}: its files are made for that; "
            "use another name or another data directory"
        )


def check_priorities(columns: Columns) -> None:
    """Raises SchemaError where an unroll's priorities are none."""
    priority = columns.get(UNSTORED)
    if priority is not None and not (priority >= 0).all():
        bad = priority[~(priority >= 0)].flat[0]
        raise SchemaError(f"column {UNSTORED!r} has {bad}; priorities are 0 or more, +inf where it is not known yet")


def _layout(definition: ReplayDefinition) -> RingLayout:
    return fit_ring(
        definition.signature,
        definition.capacity,
        before=definition.before,
        after=definition.after,
        min_size=definition.min_size,
        open_blocks=definition.writers,
        capacity_bytes=definition.capacity_bytes or None,
        evict=definition.evict,
        spare=definition.spare_rows,
        priorities=definition.sampler == "prioritised",
        count_times=definition.max_times_sampled > 0,
    )


def _limiter(definition: ReplayDefinition) -> RateLimiter:
    """samples_per_insert 0 leaves `min_size` as the only limit (in lag mode the learner counts updates itself)."""
    signature, spi = definition.signature, definition.samples_per_insert
    return RateLimiter(
        spi or 1.0,
        definition.min_size,
        (definition.error_buffer or None) if spi else math.inf,
        max_insert=signature.max_rows * signature.max_envs,
        max_sample=definition.batch_size * definition.max_batches,
    )


def _problems(definition: ReplayDefinition) -> list[str]:
    found = _signature_problems(definition.signature, definition.sampler)
    if definition.sampler not in ("uniform", "prioritised"):
        found.append(f"the sampler {definition.sampler!r} is neither 'uniform' nor 'prioritised'")
    if not 0 <= definition.priority_exponent <= MAX_EXPONENT:
        found.append(f"priority_exponent is {definition.priority_exponent}; set 0 to {MAX_EXPONENT:g}, usual is 0.6")
    if definition.max_times_sampled < 0 or definition.capacity_bytes < 0:
        found.append(
            f"max_times_sampled {definition.max_times_sampled} and capacity_bytes {definition.capacity_bytes}; set 0 "
            "(no limit) or more"
        )
    if 0 < definition.max_times_sampled < definition.samples_per_insert:
        found.append(
            f"the table would deadlock: each item leaves after max_times_sampled {definition.max_times_sampled} draws, "
            f"but samples_per_insert {definition.samples_per_insert:g} waits for more of each; lower the latter"
        )
    if definition.batch_size < 1 or definition.max_batches < 1:
        found.append(f"batch_size {definition.batch_size} and max_batches {definition.max_batches} must be 1 or more")
    item = window_bytes(definition)
    draw = definition.batch_size * definition.max_batches * item
    if draw > MOST_DRAW_BYTES:
        found.append(
            f"a draw of {definition.max_batches} batches of {definition.batch_size} items of {item:,} bytes is "
            f"{draw:,} bytes, the limit is {MOST_DRAW_BYTES:,}: lower max_batches or the batch size"
        )
    return found


def _draw_problems(definition: ReplayDefinition, layout: RingLayout) -> list[str]:
    times, most = definition.max_times_sampled, definition.batch_size * definition.max_batches
    if not 0 < times * layout.capacity < most:
        return []
    return [
        f"the table would deadlock: its {layout.capacity} rows x max_times_sampled {times} = {times * layout.capacity} "
        f"draws are fewer than max_batches {definition.max_batches} x batch_size {definition.batch_size} = {most} of "
        "one draw; raise the capacity or max_times_sampled, or lower the batches"
    ]


def _signature_problems(signature: Signature, sampler: str) -> list[str]:
    reserved = sorted(set(RESERVED) & signature.columns.keys())
    found = [f"columns {reserved}: a sample has columns of these names already; rename yours"] if reserved else []
    priority = signature.columns.get(UNSTORED)
    if priority is None:
        return found
    if sampler != "prioritised":
        found.append(f"column {UNSTORED!r} is for prioritised tables: rename it, or take that sampler")
    if priority.array.dtype != "float32" or priority.array.shape != () or priority.extra_rows:
        found.append(
            f"column {UNSTORED!r} is {priority.array.dtype}{list(priority.array.shape)}, {priority.extra_rows} extra "
            "rows; it must be one float32 a row, no extra rows"
        )
    return found
