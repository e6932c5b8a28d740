"""replay_server/replay.py: ring, sampler, limiter and counters together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, ItemRejectedError, ReplayError, SchemaError
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import UnrollHeader
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from tests.unit.counting import CountingLife, signature

T, B = 4, 3
SIZE = (T, B)
DEFINITION = ReplayDefinition(
    name="replay",
    signature=signature(T, B),
    capacity=2000,
    batch_size=8,
    max_batches=2,
    min_size=20,
    samples_per_insert=4.0,
    before=1,
    after=2,
    writers=2,
)


def goes(table: ReplayTable, items: int = T * B) -> bool:
    """Whether slot 0's unroll of so many valid rows may go in; the reason is there exactly when it may not."""
    reason = table.why_insert_waits(0, 7, T, B, items)
    assert table.may_insert(0, 7, T, B, items) == (reason is None)
    return reason is None


def send(table: ReplayTable, life: CountingLife, rows: int = T) -> UnrollHeader:
    columns = life.unroll(rows)
    header = life.header(columns)
    assert table.insert(life.incarnation, life.seq, header, columns, (rows, life.envs))
    return header


def test_windows_are_time_major_and_true(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    lives = [CountingLife(slot, 7, B, rng) for slot in range(2)]
    for _ in range(20):
        for life in lives:
            send(table, life)
    keys, probability, columns, items = table.sample(16, rng)
    assert columns is not None
    assert probability is None
    assert items == table.ring.items
    assert {name: column.shape for name, column in columns.items()} == {
        "obs": (4, 16, 1),
        "reward": (3, 16),
        "valid": (3, 16),
    }
    assert all(column.flags.c_contiguous for column in columns.values())
    numbers = columns["reward"][1]
    assert columns["valid"][1].all()
    np.testing.assert_array_equal(columns["obs"][1:, :, 0], numbers + np.arange(3)[:, None])
    np.testing.assert_array_equal(columns["reward"][2], numbers + 1)
    assert table.ring.alive(keys).all()


def test_sample_fills_given_arrays_with_the_same(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    life = CountingLife(0, 7, B, rng)
    for _ in range(10):
        send(table, life)
    keys, _, columns, _ = table.sample(8, np.random.default_rng(3))
    assert columns is not None
    out = {name: np.full_like(column, 9) for name, column in columns.items()}
    again, _, filled, _ = table.sample(8, np.random.default_rng(3), out=out)
    assert filled is not None
    assert keys.tolist() == again.tolist()
    for name, column in columns.items():
        assert filled[name] is out[name]
        np.testing.assert_array_equal(filled[name], column)
    bare = table.sample(8, np.random.default_rng(3), columns=False)
    assert bare.keys.tolist() == keys.tolist()
    assert bare.columns is None
    assert table.sampled == 24


def test_limiter_counts_items_and_both_sides_wait_their_turn(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    life = CountingLife(0, 7, B, rng, end=0.0)
    assert not table.may_sample(8)
    assert table.why_sample_waits(8) == (
        "a sample waits for the first items: inserted 0 of min_size 20; the actors must insert 20 more"
    )
    while goes(table):
        send(table, life)
    reason = table.why_insert_waits(0, 7, T, B, T * B)
    assert reason is not None
    assert "the learner must sample" in reason
    assert table.inserted == table.ring.items == (life.row - 1) * B  # the last row of each waits for its window
    while table.may_sample(8):
        table.sample(8, rng)
    reason = table.why_sample_waits(8)
    assert reason is not None
    assert "the actors must insert" in reason
    assert goes(table)
    assert table.sampled == table.stats().sampled > 0


def test_long_windows_and_a_narrow_buffer_do_not_deadlock(rng: np.random.Generator) -> None:
    narrow = replace(DEFINITION, signature=signature(1, 1), capacity=100, batch_size=1, max_batches=1, min_size=1)
    table = ReplayTable.open(replace(narrow, samples_per_insert=1.0, error_buffer=1.0, before=0, after=5, writers=1))
    life = CountingLife(0, 7, 1, rng, end=0.0)
    for _ in range(5):  # four rows that are no items yet: only items count
        assert not table.may_sample(1)
        assert table.may_insert(0, 7, 1, 1, 1)
        send(table, life, 1)
    assert table.may_sample(1)


def test_inserts_go_on_while_there_is_nothing_to_sample(rng: np.random.Generator) -> None:
    table = ReplayTable.open(replace(DEFINITION, before=0, after=1, min_size=1))
    table.limiter.record_insert(1000)  # items that are all evicted by now
    assert goes(table)
    assert table.why_sample_waits(8) == "a sample waits for the first items: the table holds none"
    with pytest.raises(ReplayError, match="holds none"):
        table.sample(8, rng)
    assert table.sampled == 0
    send(table, CountingLife(0, 7, B, rng))
    assert not goes(table)


def test_without_a_ratio_only_min_size_limits(rng: np.random.Generator) -> None:
    table = ReplayTable.open(replace(DEFINITION, samples_per_insert=0.0))
    life = CountingLife(0, 7, B, rng)
    for _ in range(50):
        assert goes(table)
        assert table.may_sample(8) == (table.inserted >= 20)
        send(table, life)


def test_duplicates_and_gaps(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    life = CountingLife(0, 7, B, rng)
    header = send(table, life)
    columns = life.unroll(T)
    assert not table.insert(7, 1, header, columns, SIZE)
    with pytest.raises(ItemRejectedError, match="unroll seq 3 came, 2 is expected"):
        table.insert(7, 3, header, columns, SIZE)
    assert table.next_seq(0, 7) == 2
    stats = table.stats()
    assert (stats.duplicates, stats.lives, stats.items) == (1, 1, stats.inserted)
    assert [h.env_steps for h in table.reports.drain()] == [header.env_steps]
    assert table.figures()["duplicates"] == 1.0


def test_a_life_that_ends_closes_its_block_and_its_items_stay(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    life = CountingLife(0, 7, B, rng)
    send(table, life)
    items = table.ring.items
    assert items > 0
    assert table.ring.open_blocks == 1
    table.end_life(0, 7)
    assert (table.ring.open_blocks, table.ring.items, table.next_seq(0, 7)) == (0, items, 1)
    send(table, CountingLife(0, 8, B, rng))
    assert table.ring.open_blocks == 1


def test_a_life_that_is_forgotten_frees_its_block(rng: np.random.Generator) -> None:
    table = ReplayTable(replace(DEFINITION, capacity=5000), max_lives=3)
    for incarnation in range(10):
        send(table, CountingLife(0, incarnation, B, rng))
        assert table.ring.open_blocks == min(3, incarnation + 1)
    assert table.stats().lives == 3


def test_draws_are_whole_batches_within_the_limit() -> None:
    table = ReplayTable.open(DEFINITION)
    assert (table.check_draw(1), table.check_draw(2), table.check_draw(3, 5)) == (8, 16, 15)
    limit = "the limit of table 'replay' is 16 items: ask for 1 to 2 batches"
    for batches in (0, 3, -1):
        with pytest.raises(ReplayError, match=f"a draw of {batches} batches of 8 items; {limit}"):
            table.check_draw(batches)
    with pytest.raises(ReplayError, match=r"a draw of 1 batches of 17 items; .* is 16 items: ask for smaller batches"):
        table.check_draw(1, 17)
    with pytest.raises(ReplayError, match="a sample of 17 items"):
        table.may_sample(17)


def test_in_files_it_is_the_same_table(tmp_path: Path) -> None:
    drawn = []
    for data_dir in (None, DataDir(tmp_path, durable=False)):
        rng = np.random.default_rng(5)
        table = ReplayTable.open(DEFINITION, data_dir=data_dir)
        life = CountingLife(0, 7, B, rng)
        for _ in range(300):
            send(table, life)
        assert table.stats().evicted > 0
        drawn.append(table.sample(16, rng))
    assert drawn[0].keys.tolist() == drawn[1].keys.tolist()
    assert drawn[0].columns is not None
    assert drawn[1].columns is not None
    np.testing.assert_array_equal(drawn[0].columns["obs"], drawn[1].columns["obs"])
    assert (tmp_path / "replay" / "column.obs").stat().st_size == 2000 * 8
    assert table.directory == str(tmp_path / "replay")


def test_in_memory_there_are_no_manifests() -> None:
    table = ReplayTable.open(DEFINITION)
    assert (table.directory, table.durable, table.wanted_mark()) == ("", False, None)
    with pytest.raises(ReplayError, match="kept in its server's memory, which has no manifests"):
        table.rollback(1)
    table.close()


def test_a_table_opened_again_has_its_counts_lives_and_ends(tmp_path: Path, rng: np.random.Generator) -> None:
    data_dir = DataDir(tmp_path, durable=False)
    table = ReplayTable.open(DEFINITION, data_dir=data_dir)
    over, goes_on = CountingLife(0, 7, B, rng), CountingLife(1, 7, B, rng)
    for life in (over, goes_on, goes_on):
        send(table, life)
    table.end_life(0, 7)
    table.sample(5, rng)
    before = table.stats()
    data_dir.close()
    again = ReplayTable.reopen(DataDir(tmp_path, durable=False), "replay")
    assert replace(again.stats(), lives=before.lives) == before
    assert (again.next_seq(0, 7), again.next_seq(1, 7), again.ended_lives()) == (1, 3, [(0, 7)])
    assert (again.inserted, again.sampled, again.epoch) == (table.inserted, 5, table.epoch)
    send(again, goes_on)


def test_lives_that_an_opened_table_has_no_place_for_are_over(tmp_path: Path, rng: np.random.Generator) -> None:
    data_dir = DataDir(tmp_path, durable=False)
    table = ReplayTable(DEFINITION, data_dir=data_dir, max_lives=2)
    for incarnation in range(3):  # killed before the third one made the table forget the first
        columns = CountingLife(0, incarnation, B, rng).unroll(T)
        table.ring.insert(0, incarnation, 1, columns, T, B)
    data_dir.close()
    again = ReplayTable(DEFINITION, data_dir=DataDir(tmp_path, durable=False), existing=True, max_lives=2)
    assert again.ring.open_blocks == again.stats().lives == 2
    assert again.ring.lives().keys() == {(0, 1), (0, 2)}


def test_what_changes_in_place_and_what_does_not(tmp_path: Path, rng: np.random.Generator) -> None:
    definition = replace(DEFINITION, sampler="prioritised")
    data_dir = DataDir(tmp_path, durable=False)
    table = ReplayTable.open(definition, data_dir=data_dir)
    life = CountingLife(0, 7, B, rng)
    for _ in range(10):
        send(table, life)
    assert table.adopt(definition) == []
    told = table.adopt(replace(definition, priority_exponent=1.0, min_size=30, batch_size=4))
    assert told == ["batch_size: 8 -> 4", "min_size: 20 -> 30", "priority_exponent: 0.6 -> 1.0"]
    assert (table.limiter.min_size, table.max_items, table.inserted) == (30, 8, table.ring.items)
    keys = table.sample(8, rng).keys
    assert table.update_priorities(keys, np.full(8, 3.0)) == 0
    probability = table.sample(8, rng).probability
    assert probability is not None
    tripled = len(set(keys.tolist()))
    whole = table.ring.items + 2 * tripled
    assert set(np.round(probability * whole, 6).tolist()) <= {1.0, 3.0}  # the exponent is 1 now
    with pytest.raises(ConfigError, match="cannot change capacity: 2000 -> 3000, before: 1 -> 2"):
        table.adopt(replace(definition, capacity=3000, before=2))
    with pytest.raises(ConfigError, match="would deadlock"):
        table.adopt(replace(definition, error_buffer=10.0))
    data_dir.close()
    again = ReplayTable.reopen(DataDir(tmp_path, durable=False), "replay")
    assert again.definition.priority_exponent == 1.0


def test_priorities_are_for_prioritised_tables_and_must_be_numbers(rng: np.random.Generator) -> None:
    table = ReplayTable.open(DEFINITION)
    with pytest.raises(SchemaError, match="draws uniformly and has no priorities"):
        table.update_priorities(np.zeros(1, np.int64), np.ones(1, np.float32))
    column = ColumnSpec(ArraySpec((), "float32"))
    spec = Signature({**signature(T, B).columns, "priority": column}, T, B)
    table = ReplayTable.open(replace(DEFINITION, signature=spec, sampler="prioritised"))
    life = CountingLife(0, 7, B, rng, end=0.0)
    columns = life.unroll(T)
    header = life.header(columns)
    bad = {**columns, "priority": np.full(SIZE, -1, np.float32)}
    with pytest.raises(SchemaError, match=r"column 'priority' has -1.0; priorities are 0 or more"):
        table.insert(7, 1, header, bad, SIZE)
    assert (table.ring.items, table.next_seq(0, 7)) == (0, 1)
    assert table.insert(7, 1, header, {**columns, "priority": np.full(SIZE, 5, np.float32)}, SIZE)
    assert table.ring.max_priority == 5.0
    assert table.update_priorities(np.array([10**6]), np.ones(1, np.float32)) == 1
    assert table.stats().unknown_keys == 1
