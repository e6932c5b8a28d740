"""replay_server/settings.py: everything that makes no table is told at once, with the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from core.errors import CodecError, ConfigError, SchemaError
from core.specs import ArraySpec, ColumnSpec, Signature
from replay_server.definition import ON_DISK, ReplayDefinition, Sampler
from replay_server.replay import ReplayTable
from replay_server.samplers import PrioritisedSampler
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
    lines = (64 + 2 * 2000 // 64) * 128 + 16385 * 32 + 192
    assert table_bytes(DEFINITION) == 2000 * (8 + 8 + 1 + 1) + lines
    assert table_bytes(replace(DEFINITION, max_times_sampled=4)) == 2000 * (18 + 4) + lines
    assert table_bytes(priority) == 2000 * (18 + 4) + 2 * 2048 * 8 + lines
    small = table_bytes(replace(DEFINITION, capacity=10**6, capacity_bytes=600_000))
    assert 600_000 - 100 < small <= 600_000


@pytest.mark.parametrize("sampler", ["uniform", "prioritised"])
@pytest.mark.parametrize("times", [0, 4])
def test_a_table_takes_what_was_said(sampler: Sampler, times: int) -> None:
    definition = replace(DEFINITION, sampler=sampler, max_times_sampled=times, capacity=1500, spare_rows=100)
    table = ReplayTable.open(definition)
    files = table.ring.files
    arrays = [*files.columns.values(), files.header, files.blocks, files.writers, table.ring.live]
    arrays += [array for array in (files.priority, files.times) if array is not None]
    if isinstance(table._sampler, PrioritisedSampler):
        arrays.append(table._sampler._tree._tree)
    assert table_bytes(definition) == table.stats().held_bytes == sum(array.nbytes for array in arrays)


def test_items_that_leave_before_they_were_drawn_often_enough_are_a_deadlock() -> None:
    plan(replace(DEFINITION, max_times_sampled=4))
    (problem,) = problems(replace(DEFINITION, max_times_sampled=3))
    assert problem == (
        "table 't': the table would deadlock: each item leaves after max_times_sampled 3 draws, but "
        "samples_per_insert 4 waits for more of each; lower the latter"
    )


def test_a_draw_that_the_table_can_never_hold_is_a_deadlock() -> None:
    scarce = replace(DEFINITION, samples_per_insert=0.0, max_times_sampled=2, batch_size=1000)
    plan(replace(scarce, max_batches=4))
    (problem,) = problems(replace(scarce, max_batches=5))
    assert problem == (
        "table 't': the table would deadlock: its 2000 rows x max_times_sampled 2 = 4000 draws are fewer than "
        "max_batches 5 x batch_size 1000 = 5000 of one draw; raise the capacity or max_times_sampled, or lower the "
        "batches"
    )


WRONG_TYPES: dict[str, tuple[Any, str]] = {
    "capacity": (1e6, "capacity is 1000000.0 (float); give a whole number up to 1,099,511,627,776"),
    "batch_size": (64.0, "batch_size is 64.0 (float); give a whole number"),
    "min_size": (True, "min_size is True (bool); give a whole number"),
    "spare_rows": (1 << 60, "spare_rows is 1152921504606846976 (int); give a whole number up to 1,099,511,627,776"),
    "samples_per_insert": ("4", "samples_per_insert is 4 (str); give a number"),
    "evict": (1, "evict is 1 (int); give True or False"),
    "sampler": (None, "sampler is None (NoneType); give text"),
    "name": (5, "name is 5 (int); give text"),
}


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_field_of_another_kind_is_told(field: str) -> None:
    value, told = WRONG_TYPES[field]
    with pytest.raises(ConfigError) as caught:
        replace(DEFINITION, **{field: value})
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(told)
    plain = DEFINITION.to_plain() | {field: value}
    with pytest.raises(CodecError) as refused:
        ReplayDefinition.unpack(msgpack.packb(plain))
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["", "../t", "a/b", ".t", "ü", "x" * 201])
def test_a_name_is_a_file_name_in_memory_too(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be a table's name: use letters, digits, '_', '-' and '.', at most 200"
    ):
        replace(DEFINITION, name=name)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (ArraySpec((-1,), "float32"), "column 'x' has shape (-1,); give at most 14 whole numbers from 1 on"),
        (ArraySpec((3, 0), "float32"), "column 'x' has shape (3, 0); give at most 14 whole numbers"),
        (ArraySpec((1,) * 15, "float32"), "column 'x' has shape (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1); give"),
        (ArraySpec((), "<U5"), "column 'x' has dtype '<U5'; give bool or a little-endian integer or float"),
        (ArraySpec((), "complex64"), "column 'x' has dtype 'complex64'; give bool"),
        (ArraySpec((), ">f4"), "column 'x' has dtype '>f4'; give bool"),
        (ArraySpec((), "number"), "column 'x' has dtype 'number'; give bool"),
    ],
)
def test_a_column_that_cannot_travel_is_told(array: ArraySpec, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_column("x", ColumnSpec(array))
    assert str(caught.value).startswith(told)


def test_a_signature_has_as_many_columns_as_travel() -> None:
    columns = {f"c{n}": ColumnSpec(ArraySpec((), "float32")) for n in range(299)} | {
        "valid": ColumnSpec(ArraySpec((), "u1"))
    }
    with pytest.raises(ConfigError, match=r"^300 columns; give at most 256$"):
        replace(DEFINITION, signature=Signature(columns, 4, 3))
    with pytest.raises(ConfigError, match="max_rows is 0; give a whole number from 1 on") as caught:
        replace(DEFINITION, signature=Signature(DEFINITION.signature.columns, 0, 2.0))  # type: ignore[arg-type]
    assert caught.value.problems[1] == "max_envs is 2.0; give a whole number from 1 on"


def test_more_lives_than_the_ring_has_room_for_are_told_with_the_arithmetic() -> None:
    table = ReplayTable.open(DEFINITION)
    assert table.why_no_life(30) is None
    reason = table.why_no_life(48)
    assert reason is not None
    assert "the table holds 2000 rows, but 48 actors that send 4 rows of 3 environments need 2 x 48 blocks" in reason


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
