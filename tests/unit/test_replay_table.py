"""replay_server/replay.py: ring, sampler, limiter and counters together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, ItemRejectedError, ReplayError, SchemaError
from core.types import UnrollHeader
from replay_server.definition import ReplayDefinition
from replay_server.layout import RingLayout
from replay_server.limiter import RateLimiter
from replay_server.replay import ReplayTable
from tests.unit.counting import CountingLife, signature

T, B = 4, 3
DEFINITION = ReplayDefinition(
    name="replay",
    signature=signature(T, B),
    capacity=2000,
    batch_size=8,
    batches_per_round=2,
    min_size=20,
    samples_per_insert=4.0,
    before=1,
    after=2,
    writers=2,
)


def send(table: ReplayTable, life: CountingLife, rows: int = T) -> UnrollHeader:
    columns = life.unroll(rows)
    header = life.header(columns)
    assert table.insert(life.incarnation, life.seq, header, columns)
    return header


def test_windows_are_time_major_and_true(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(DEFINITION)
    lives = [CountingLife(slot, 7, B, rng) for slot in range(2)]
    for _ in range(20):
        for life in lives:
            send(table, life)
    keys, columns = table.sample(16, rng)
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
    table = ReplayTable.from_definition(DEFINITION)
    life = CountingLife(0, 7, B, rng)
    for _ in range(10):
        send(table, life)
    keys, columns = table.sample(8, np.random.default_rng(3))
    out = {name: np.full_like(column, 9) for name, column in columns.items()}
    again, filled = table.sample(8, np.random.default_rng(3), out)
    assert keys.tolist() == again.tolist()
    for name, column in columns.items():
        assert filled[name] is out[name]
        np.testing.assert_array_equal(filled[name], column)


def test_limiter_counts_items_and_both_sides_wait_their_turn(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(DEFINITION)
    life = CountingLife(0, 7, B, rng, end=0.0)
    assert not table.may_sample(8)
    assert table.why_sample_waits(8) == (
        "a sample waits for the first items: inserted 0 of min_size 20; the actors must insert 20 more"
    )
    while table.may_insert(T * B):
        send(table, life)
    reason = table.why_insert_waits(T * B)
    assert reason is not None
    assert "the learner must sample" in reason
    assert table.inserted == table.ring.items == (life.row - 1) * B  # the last row of each waits for its window
    while table.may_sample(8):
        table.sample(8, rng)
    reason = table.why_sample_waits(8)
    assert reason is not None
    assert "the actors must insert" in reason
    assert table.may_insert(T * B)
    assert table.why_insert_waits(T * B) is None
    assert table.sampled == table.stats().sampled > 0


def test_long_windows_and_a_narrow_buffer_do_not_deadlock(rng: np.random.Generator) -> None:
    limiter = RateLimiter(1.0, 1, 1.0, max_insert=1, max_sample=1)
    table = ReplayTable(signature(1, 1), RingLayout(100, after=5), limiter)
    life = CountingLife(0, 7, 1, rng, end=0.0)
    for _ in range(5):  # four rows that are no items yet: only items count
        assert not table.may_sample(1)
        assert table.may_insert(1)
        send(table, life, 1)
    assert table.may_sample(1)


def test_inserts_go_on_while_there_is_nothing_to_sample(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(replace(DEFINITION, before=0, after=1, min_size=1))
    table.limiter.record_insert(1000)  # items that are all evicted by now
    assert table.may_insert(T * B)
    assert table.why_sample_waits(8) == "a sample waits for the first items: the table holds none"
    with pytest.raises(ReplayError, match="holds none"):
        table.sample(8, rng)
    send(table, CountingLife(0, 7, B, rng))
    assert not table.may_insert(T * B)


def test_without_a_ratio_only_min_size_limits(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(replace(DEFINITION, samples_per_insert=0.0))
    life = CountingLife(0, 7, B, rng)
    for _ in range(50):
        assert table.may_insert(T * B)
        assert table.may_sample(8) == (table.inserted >= 20)
        send(table, life)


def test_duplicates_and_gaps(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(DEFINITION)
    life = CountingLife(0, 7, B, rng)
    header = send(table, life)
    columns = life.unroll(T)
    assert not table.insert(7, 1, header, columns)
    with pytest.raises(ItemRejectedError, match="unroll seq 3 came, 2 is expected"):
        table.insert(7, 3, header, columns)
    with pytest.raises(SchemaError, match="unknown"):
        table.insert(7, 2, header, {**columns, "more": columns["reward"]})
    assert table.next_seq(0, 7) == 2
    stats = table.stats()
    assert (stats.duplicates, stats.lives, stats.items) == (1, 1, stats.inserted)
    assert [h.env_steps for h in table.drain_headers()] == [header.env_steps]
    assert table.figures()["duplicates"] == 1.0


def test_a_life_that_ends_closes_its_block_and_its_items_stay(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(DEFINITION)
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
    limiter = RateLimiter(1.0, 1, max_insert=T * B, max_sample=8)
    table = ReplayTable(signature(T, B), RingLayout(5000), limiter, max_lives=3)
    for incarnation in range(10):
        send(table, CountingLife(0, incarnation, B, rng))
        assert table.ring.open_blocks == min(3, incarnation + 1)
    assert table.stats().lives == 3


def test_what_no_table_can_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="need 2 x 50 blocks"):
        ReplayTable.from_definition(replace(DEFINITION, writers=50))
    with pytest.raises(ConfigError, match="would deadlock"):
        ReplayTable.from_definition(replace(DEFINITION, error_buffer=10.0))
    table = ReplayTable.from_definition(DEFINITION)
    assert table.why_no_room(2) is None
    reason = table.why_no_room(50)
    assert reason is not None
    assert "2 x 50 blocks x (1 + 2 + 4 rows) x 3 + min_size 20 = 2120" in reason


def test_draws_are_whole_batches_within_the_limit(rng: np.random.Generator) -> None:
    table = ReplayTable.from_definition(DEFINITION)
    assert (table.check_draw(1), table.check_draw(2)) == (8, 16)
    for batches in (0, 3, -1):
        with pytest.raises(ReplayError, match=f"a draw of {batches} batches of 8 items: ask for 1 to 2"):
            table.check_draw(batches)
    with pytest.raises(ReplayError, match="a sample of 17 items"):
        table.sample(17, rng)


def test_in_files_it_is_the_same_table(tmp_path: Path) -> None:
    drawn = []
    for data_dir in (None, tmp_path):
        rng = np.random.default_rng(5)
        table = ReplayTable.from_definition(DEFINITION, data_dir=data_dir)
        life = CountingLife(0, 7, B, rng)
        for _ in range(300):
            send(table, life)
        assert table.stats().evicted > 0
        drawn.append(table.sample(16, rng))
    assert drawn[0][0].tolist() == drawn[1][0].tolist()
    np.testing.assert_array_equal(drawn[0][1]["obs"], drawn[1][1]["obs"])
    assert (tmp_path / "column.obs").stat().st_size == 2000 * 8
