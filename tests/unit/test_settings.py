"""replay_server/settings.py: everything that makes no table is told at once, with the arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.errors import ConfigError, SchemaError
from core.specs import ArraySpec, ColumnSpec, Signature
from replay_server.definition import ON_DISK, ReplayDefinition
from replay_server.replay import ReplayTable
from replay_server.settings import (
    MOST_DRAW_BYTES,
    check_change,
    check_priorities,
    plan,
    table_bytes,
    window_bytes,
)
from tests.unit.counting import signature

DEFINITION = ReplayDefinition("t", signature(4, 3), 2000, 8, 2, 20, 4.0, 1, 2, 2)


def problems(definition: ReplayDefinition) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        plan(definition)
    return caught.value.problems


def with_column(name: str, column: ColumnSpec, definition: ReplayDefinition = DEFINITION) -> ReplayDefinition:
    old = definition.signature
    return replace(definition, signature=Signature({**old.columns, name: column}, old.max_rows, old.max_envs))


def test_a_definition_becomes_its_parts() -> None:
    layout, limiter = plan(replace(DEFINITION, spare_rows=100, error_buffer=200.0))
    assert (layout.cells, layout.capacity, layout.before, layout.after) == (2100, 2000, 1, 2)
    assert (layout.min_size, layout.open_blocks, layout.evict) == (20, 2, True)
    assert (limiter.samples_per_insert, limiter.min_size, limiter.error_buffer) == (4.0, 20, 200.0)
    assert (limiter.max_insert, limiter.max_sample) == (12, 16)


def test_all_problems_are_told_at_once() -> None:
    wrong = replace(
        with_column("key", ColumnSpec(ArraySpec((), "int64"))),
        sampler="random",  # type: ignore[arg-type]
        priority_exponent=5.0,
        max_times_sampled=-1,
        writers=50,
        error_buffer=10.0,
    )
    assert problems(wrong) == (
        "table 't': columns ['key']: a sample has columns of these names already; rename yours",
        "table 't': the sampler 'random' is neither 'uniform' nor 'prioritised'",
        "table 't': priority_exponent is 5.0; set 0 to 4, usual is 0.6",
        "table 't': max_times_sampled -1 and capacity_bytes 0; set 0 (no limit) or more",
        "table 't': the table holds 2000 rows, but 50 actors that send 4 rows of 3 environments need 2 x 50 blocks x "
        "(1 + 2 + 4 rows) x 3 + min_size 20 = 2120; set capacity to 2120 or more, or use fewer actors, fewer "
        "environments an actor or shorter unrolls",
        "table 't': the table would deadlock before its first sample: error_buffer 10 is under max_insert 12 x "
        "samples_per_insert 4 = 48; set error_buffer to 48 or more, or send smaller unrolls",
        "table 't': the table would deadlock: 2 x error_buffer 10 = 20 is under max_insert 12 x samples_per_insert 4 "
        "+ max_sample 16 = 64; set error_buffer to 48 or more, or use smaller unrolls or batches",
    )


def test_what_is_refused_is_made_by_nobody() -> None:
    with pytest.raises(ConfigError, match="2 x 50 blocks"):
        ReplayTable.open(replace(DEFINITION, writers=50))


@pytest.mark.parametrize("name", ["key", "probability"])
def test_names_that_a_sample_has_already_are_refused(name: str) -> None:
    (problem,) = problems(with_column(name, ColumnSpec(ArraySpec((), "float32"))))
    assert problem.startswith(f"table 't': columns ['{name}']: a sample has columns of these names already")


@pytest.mark.parametrize(
    "column",
    [
        ColumnSpec(ArraySpec((), "float64")),
        ColumnSpec(ArraySpec((1,), "float32")),
        ColumnSpec(ArraySpec((), "float32"), extra_rows=1),
    ],
)
def test_a_priority_is_one_float32_a_row(column: ColumnSpec) -> None:
    prioritised = replace(DEFINITION, sampler="prioritised")
    plan(with_column("priority", ColumnSpec(ArraySpec((), "float32")), prioritised))
    (problem,) = problems(with_column("priority", column, prioritised))
    assert problem == (
        f"table 't': column 'priority' is {column.array.dtype}{list(column.array.shape)}, {column.extra_rows} extra "
        "rows; it must be one float32 a row, no extra rows"
    )


def test_a_uniform_table_has_no_column_priority() -> None:
    (problem,) = problems(with_column("priority", ColumnSpec(ArraySpec((), "float32"))))
    assert problem == "table 't': column 'priority' is for prioritised tables: rename it, or take that sampler"


def test_a_draw_has_a_limit_in_bytes() -> None:
    wide = replace(DEFINITION, signature=signature(4, 3, wide=1 << 15), capacity=1000, batch_size=64, max_batches=3)
    item = 4 * (1 << 18) + 3 * 8 + 3  # obs has 1 + 2 + 1 rows
    assert window_bytes(wide) == item
    assert 3 * 64 * item <= MOST_DRAW_BYTES < 4 * 64 * item
    plan(wide)
    (problem,) = problems(replace(wide, max_batches=4))
    assert problem == (
        f"table 't': a draw of 4 batches of 64 items of {item:,} bytes is {4 * 64 * item:,} bytes, the limit is "
        "268,435,456: lower max_batches or the batch size"
    )


def test_bytes_of_windows_and_tables() -> None:
    first = with_column("start", ColumnSpec(ArraySpec((10,), "float32"), window_rows="first"))
    assert window_bytes(first) == window_bytes(DEFINITION) + 40  # once, not once a row
    priority = with_column("priority", ColumnSpec(ArraySpec((), "float32")), replace(DEFINITION, sampler="prioritised"))
    assert window_bytes(priority) == window_bytes(DEFINITION)  # it is not handed out
    assert table_bytes(DEFINITION) == 2000 * (8 + 8 + 1 + 1)
    assert table_bytes(replace(DEFINITION, max_times_sampled=4)) == 2000 * (18 + 4)
    assert table_bytes(priority) == 2000 * (18 + 4 + 16)
    assert table_bytes(replace(DEFINITION, capacity_bytes=18_000)) == 18_000


def test_items_that_leave_before_they_were_drawn_often_enough_are_a_deadlock() -> None:
    plan(replace(DEFINITION, max_times_sampled=4))
    (problem,) = problems(replace(DEFINITION, max_times_sampled=3))
    assert problem == (
        "table 't': the table would deadlock: each item leaves after max_times_sampled 3 draws, but "
        "samples_per_insert 4 waits for more of each; lower the latter"
    )


def test_batches_have_items() -> None:
    assert "table 't': batch_size 0 and max_batches 2 must be 1 or more" in problems(replace(DEFINITION, batch_size=0))
    assert "table 't': batch_size 8 and max_batches 0 must be 1 or more" in problems(replace(DEFINITION, max_batches=0))


@pytest.mark.parametrize(("field", "value"), [("spare_rows", -1), ("capacity", 0), ("before", -1), ("after", 0)])
def test_numbers_below_their_least_are_told(field: str, value: int) -> None:
    changed = replace(DEFINITION, **{field: value})  # type: ignore[arg-type]
    assert any(f"{field.removesuffix('_rows')}" in problem and str(value) in problem for problem in problems(changed))


def test_what_the_files_are_made_for_cannot_change() -> None:
    new = replace(DEFINITION, capacity=3000, batch_size=9, sampler="prioritised")
    changed = new.differences(DEFINITION)
    assert set(changed) == {"capacity", "batch_size", "sampler"}
    with pytest.raises(ConfigError) as caught:
        check_change("t", changed)
    assert str(caught.value) == (
        "table 't' exists and cannot change capacity: 2000 -> 3000, sampler: uniform -> prioritised: its files are "
        "made for that; use another name or another data directory"
    )
    check_change("t", {"batch_size": "8 -> 9", "writers": "1 -> 2"})
    for field in ON_DISK:
        with pytest.raises(ConfigError, match=f"cannot change {field}: a -> b"):
            check_change("t", {field: "a -> b"})


@pytest.mark.parametrize("bad", [-1.0, np.nan, -np.inf])
def test_priorities_that_are_none_are_refused(bad: float) -> None:
    good = np.array([[0.0, 1.5], [np.inf, 3.0]], np.float32)
    check_priorities({"priority": good})
    check_priorities({})
    wrong = good.copy()
    wrong[1, 0] = bad
    with pytest.raises(SchemaError, match=f"column 'priority' has {bad}; priorities are 0 or more"):
        check_priorities({"priority": wrong})
