"""replay_server/draws_left.py: no item is drawn more often than max_times_sampled, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from core.errors import ReplayError
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from replay_server.samplers import Items, Keys, Probabilities, UniformSampler
from tests.unit.counting import CountingLife, signature

T, B = 4, 3
MOST = 3
DEFINITION = ReplayDefinition("t", signature(T, B), 2000, 8, 64, 1, 0.0, 0, 1, 1, max_times_sampled=MOST)
SAMPLERS: tuple[Literal["uniform", "prioritised"], ...] = ("uniform", "prioritised")


def filled(definition: ReplayDefinition, unrolls: int, data_dir: DataDir | None = None) -> ReplayTable:
    """A table of unrolls of 12 items."""
    table = ReplayTable.open(definition, data_dir=data_dir)
    life = CountingLife(0, 7, B, np.random.default_rng(0), end=0.0)
    for _ in range(unrolls):
        columns = life.unroll(T)
        table.insert(7, life.seq, life.header(columns), columns, (T, B))
    return table


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n", [1, 7, 64])
def test_every_item_is_drawn_exactly_as_often_as_it_may(
    sampler: Literal["uniform", "prioritised"], n: int, rng: np.random.Generator
) -> None:
    table = filled(replace(DEFINITION, sampler=sampler), 4)
    items = table.ring.items
    assert items == 4 * T * B
    times: dict[int, int] = {}
    while table.may_sample(n):
        keys, _, columns, _ = table.sample(n, rng)
        assert columns is not None
        assert columns["valid"].all()
        for key in keys.tolist():
            times[key] = times.get(key, 0) + 1
        assert max(times.values()) <= MOST
        assert table.ring.items == items - sum(count == MOST for count in times.values())
        assert table.ring.alive(np.array(list(times))).tolist() == [count < MOST for count in times.values()]
    left = items * MOST - sum(times.values())
    assert left < n
    assert table.may_sample(left) or not left
    if left:
        table.sample(left, rng)
    assert (table.ring.items, table.sampled, table.inserted) == (0, items * MOST, items)


class Same(UniformSampler):
    """Draws the first item again and again, while it is there."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities]:
        live = np.flatnonzero(ring.live)
        return np.full(n, live[0], np.int64), np.full(n, 1 / len(live))


def test_what_a_draw_has_too_often_is_drawn_again_from_the_others(rng: np.random.Generator) -> None:
    table = filled(DEFINITION, 1)
    sampler = Same()
    keys, probability = table._draws_left.draw(sampler, 8, rng, 1)
    assert keys.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert probability is not None
    assert np.round(1 / probability).tolist() == [12, 12, 12, 11, 11, 11, 10, 10]  # of the draw that gave the key
    keys, _ = table._draws_left.draw(sampler, 2, rng, 1)
    assert keys.tolist() == [2, 3]


def test_draws_are_uniform_over_what_is_left(rng: np.random.Generator) -> None:
    table = filled(replace(DEFINITION, max_times_sampled=1000), 2)
    drawn = np.concatenate([table.sample(100, rng).keys for _ in range(60)])
    counts = np.unique_counts(drawn).counts
    assert len(counts) == 24
    chi_square = float(((counts - 250) ** 2 / 250).sum())
    assert chi_square < 60  # 23 degrees of freedom: one in 40,000 is over


def test_without_the_setting_items_stay(rng: np.random.Generator) -> None:
    table = filled(replace(DEFINITION, max_times_sampled=0), 1)
    for _ in range(100):
        table.sample(64, rng)
    assert (table.ring.items, table.sampled) == (12, 6400)
    assert table.ring.times is None


def test_inserts_go_when_no_batch_is_left(rng: np.random.Generator) -> None:
    definition = replace(DEFINITION, max_times_sampled=2, samples_per_insert=1.0, max_batches=1, batch_size=20)
    table = filled(definition, 1)
    assert table.ring.items == 12
    table.sample(12, rng)  # 12 draws are left, a batch has 20
    assert table.limiter.may_insert(T * B)
    table.limiter.inserted += 60  # the limiter alone would say no: others sampled less
    assert not table.limiter.may_insert(T * B)
    assert not table.may_sample(20)
    reason = table.why_sample_waits(20)
    assert reason is not None
    assert "may be drawn 12 times, each leaves after max_times_sampled 2" in reason
    assert table.may_insert(0, 7, T, B, T * B)
    assert table.why_insert_waits(0, 7, T, B, T * B) is None
    life = CountingLife(0, 9, B, rng)
    columns = life.unroll(T)
    table.insert(9, 1, life.header(columns), columns, (T, B))
    assert table.may_sample(20)
    assert not table.may_insert(0, 7, T, B, T * B)  # now a sample may go first


@pytest.mark.parametrize("most_times", [MOST, 1])
@pytest.mark.parametrize("batches", [1, 4])
def test_a_producer_and_a_consumer_never_both_wait(rng: np.random.Generator, batches: int, most_times: int) -> None:
    definition = replace(DEFINITION, max_batches=batches, batch_size=16, capacity=200, min_size=30)
    spi = min(2.5, most_times)
    table = ReplayTable.open(replace(definition, samples_per_insert=spi, max_times_sampled=most_times))
    life = CountingLife(0, 7, B, rng)
    for _ in range(2000):
        columns = life.unroll(T)
        header = life.header(columns)
        while not table.may_insert(0, 7, T, B, header.env_steps):
            n = 16 * batches
            assert table.may_sample(n), (table.why_insert_waits(0, 7, T, B, 12), table.why_sample_waits(n))
            table.sample(n, rng)
        table.insert(7, life.seq, header, columns, (T, B))
    assert table.sampled > 2000
    assert table.ring.inserted == table.inserted


def test_an_empty_table_says_so(rng: np.random.Generator) -> None:
    table = filled(DEFINITION, 1)
    table.sample(12 * MOST, rng)
    assert table.why_sample_waits(1) == "a sample waits for the first items: the table holds none"
    with pytest.raises(ReplayError, match="holds none"):
        table.sample(1, rng)


def test_counts_of_draws_outlive_a_kill(tmp_path: Path, rng: np.random.Generator) -> None:
    data_dir = DataDir(tmp_path, durable=False)
    table = filled(DEFINITION, 2, data_dir)
    table.sample(50, rng)
    data_dir.close()
    again = ReplayTable.reopen(DataDir(tmp_path, durable=False), "t")
    np.testing.assert_array_equal(again.ring.live, table.ring.live)
    assert (again.ring.items, again.inserted, again.sampled) == (table.ring.items, 24, 50)
    assert not again.may_sample(24 * MOST - 50 + 1)
    again.sample(24 * MOST - 50, rng)
    assert again.ring.items == 0
