"""replay_server/ring.py against a slow twin: every valid row is an item exactly once, every window is true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError, ItemRejectedError
from core.specs import ArraySpec, ColumnSpec, Signature
from replay_server import ring_files as words
from replay_server.layout import RingLayout, fit_ring, ring_bytes
from replay_server.ring import Ring
from replay_server.ring_files import Block
from tests.unit.counting import STRIDE, CountingLife, signature
from tests.unit.ring_twin import MAX_ENVS, MAX_ROWS, OPS, Twin, live_keys, many_ops, run


@given(
    ops=OPS,
    envs=st.lists(st.integers(1, MAX_ENVS), min_size=3, max_size=3),
    before=st.integers(0, 3),
    after=st.integers(1, 3),
    cells=st.sampled_from([260, 300, 700]),
    block_rows=st.sampled_from([1, 8, 16]),
    seed=st.integers(0, 1000),
)
def test_ring_is_its_twin(
    ops: list[tuple[int, int, int]], envs: list[int], before: int, after: int, cells: int, block_rows: int, seed: int
) -> None:
    layout = fit_ring(
        signature(MAX_ROWS, MAX_ENVS),
        cells,
        before=before,
        after=after,
        open_blocks=3,
        block_rows=block_rows,
    )
    twin = run(Ring(signature(MAX_ROWS, MAX_ENVS), layout), envs, ops, np.random.default_rng(seed))
    assert twin.ring.open_blocks <= 3


@given(ops=OPS, before=st.integers(0, 3), after=st.integers(1, 4), seed=st.integers(0, 1000))
def test_without_eviction_every_valid_row_with_a_whole_window_is_an_item(
    ops: list[tuple[int, int, int]], before: int, after: int, seed: int
) -> None:
    layout = RingLayout(20_000, before, after, block_rows=8, open_blocks=3)
    twin = run(Ring(signature(MAX_ROWS, MAX_ENVS), layout), [1, 2, 3], ops, np.random.default_rng(seed))
    assert twin.ring.evicted == 0
    assert twin.ring.items == len(twin.due)


def test_ring_that_wraps_many_times(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(300, 1, 2, block_rows=8, open_blocks=3))
    run(ring, [1, 2, 3], many_ops(rng, 400), rng)
    assert ring.tail > 10 * 300


def test_twin_notices_a_block_that_repeats_a_row_too_few(rng: np.random.Generator) -> None:
    class Short(RingLayout):
        @property
        def repeated(self) -> int:
            return super().repeated - 1

    ring = Ring(signature(MAX_ROWS, MAX_ENVS), Short(2000, 2, 2, block_rows=8, open_blocks=3))
    with pytest.raises((AssertionError, KeyError)):
        run(ring, [1, 2, 3], many_ops(rng, 100), rng)


def test_twin_notices_items_without_a_past(rng: np.random.Generator) -> None:
    class Early(Ring):
        def _open_block(self, *args: Any) -> Block:
            block = super()._open_block(*args)
            block.low = 0
            return block

    ring = Early(signature(MAX_ROWS, MAX_ENVS), RingLayout(150, 2, 1, block_rows=8, open_blocks=3))
    ops = [(slot, rows, 2) for slot, rows, _ in many_ops(rng, 20)]
    slow_first = [(0, 2, 2), *[(slot or 1, rows, luck) for slot, rows, luck in ops], *[(0, 6, 2)] * 3]
    with pytest.raises(AssertionError):
        run(ring, [1, 2, 3], slow_first, rng)


def test_a_slow_life_whose_block_was_evicted_goes_on_without_a_false_past(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(200, 2, 1, block_rows=8, open_blocks=2))
    twin = Twin(ring)
    slow, fast = CountingLife(0, 1, 1, rng, end=0.0), CountingLife(1, 1, 3, rng, end=0.0)
    twin.insert(slow, 4)
    for _ in range(20):
        twin.insert(fast, 6)
    twin.check()
    assert ring.files.writers[ring._lost[0, 1]].tolist() == [0, 1, 0, 1]  # its counter outlives its blocks
    assert ring.lives()[0, 1] == 1
    twin.insert(slow, 4)
    twin.check()
    assert not ring.files.writers[:, words.W_SEQ].any()
    assert ring.lives()[0, 1] == 2
    mine = [n for n in twin.ring.gather(live_keys(ring))["reward"][2].tolist() if n < 2000 * 100 * STRIDE]
    assert [n - int(slow.base[0]) for n in sorted(mine)] == [6, 7]  # rows 4 and 5 are context only
    ring.end_life(0, 1)
    ring.end_life(0, 1)


def test_an_unroll_that_changes_its_width_is_refused(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(500))
    ring.insert(0, 1, 1, CountingLife(0, 1, 2, rng).unroll(2), 2, 2)
    with pytest.raises(ItemRejectedError, match="sends 3 environments, its earlier unrolls had 2"):
        ring.insert(0, 1, 2, CountingLife(0, 1, 3, rng).unroll(2), 2, 3)


@pytest.mark.parametrize("round_", [1 << 63, -(1 << 63), 1 << 80])
def test_a_round_that_no_line_can_hold_is_refused_and_nothing_has_changed(
    rng: np.random.Generator, round_: int
) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(100, block_rows=8))
    twin, life = Twin(ring), CountingLife(0, 1, 3, rng, end=0.0)
    while not ring.evicted:
        twin.insert(life, 6)
    before = (ring.items, ring.tail, ring.head, list(ring._order), list(ring._free_blocks))
    other = CountingLife(1, 1, 3, rng)
    for _ in range(200):
        with pytest.raises(ItemRejectedError, match=r"slot 1 would have begun at round -?\d+; rounds are -92\d+ to 92"):
            ring.insert(1, 1, 2, other.unroll(6), 6, 3, round=round_ + (1 if round_ > 0 else 0))
    assert (ring.items, ring.tail, ring.head, list(ring._order), list(ring._free_blocks)) == before
    twin.insert(life, 6)
    twin.check()


def test_a_round_never_writes_behind_what_was_said(rng: np.random.Generator) -> None:
    layout = RingLayout(600, 1, 2, block_rows=32, open_blocks=2)
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), layout)
    lives = [CountingLife(slot, 1, MAX_ENVS, rng) for slot in range(4)]
    exact = 0
    for _ in range(2000):
        slots = {
            slot for slot in range(4) if rng.random() < (0.9 if slot else 0.1)
        }  # the block of a slow one may be evicted
        over = {slot for slot in slots if rng.random() < 0.02}
        end, head = ring.end_of_round(slots, over, MAX_ROWS, MAX_ENVS), ring.head
        exact += end == head
        for slot in sorted(slots):
            life = lives[slot]
            if slot in over:  # it goes in as the life before, whose block is closed
                ring.end_life(slot, life.incarnation)
                life = lives[slot] = CountingLife(slot, life.incarnation + 1, life.envs, rng)
            rows = int(rng.integers(1, MAX_ROWS + 1))
            columns = life.unroll(rows)
            ring.insert(slot, life.incarnation, life.seq, columns, rows, life.envs)
        assert ring.head <= end
    assert ring.head > 10 * 600
    assert exact > 100  # where no block is full nothing is asked for


def test_without_evict_a_full_table_refuses_and_keeps_all(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(100, block_rows=8, evict=False))
    twin = Twin(ring)
    life = CountingLife(0, 1, 3, rng, end=0.0)

    def fill() -> None:
        while True:
            twin.insert(life, 4)

    with pytest.raises(ItemRejectedError, match=r"the table of 100 rows .* 4 rows are free and evict is False"):
        fill()
    twin.check()
    assert (ring.evicted, ring.tail) == (0, 0)
    assert ring.items > 70


def test_blocks_shrink_so_that_more_lives_fit() -> None:
    layout = RingLayout(10_000, 3, 1, min_size=1000, block_rows=256)
    assert layout.block_rows_for(16, 4, open_blocks=1) == 3 + 256 + 1  # whole unrolls
    assert layout.block_rows_for(16, 4, open_blocks=8) == 3 + 128 + 1  # 9000 / 16 / 4 = 140 rows
    assert layout.block_rows_for(16, 4, open_blocks=1000) == 3 + 16 + 1  # never less than one unroll


def test_capacity_that_is_too_small_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError) as caught:
        fit_ring(signature(64, 64), 30_000, before=3, after=1, min_size=1000, open_blocks=4)
    assert str(caught.value).startswith(
        "the table holds 30000 rows, but 4 actors that send 64 rows of 64 environments need 2 x 4 blocks x "
        "(3 + 1 + 64 rows) x 64 + min_size 1000 = 35816; set capacity to 35816 or more"
    )
    assert fit_ring(signature(64, 64), 35_816, before=3, after=1, min_size=1000, open_blocks=4).cells == 35_816


@given(
    cells=st.integers(100, 20_000),
    open_blocks=st.integers(1, 300),
    rows=st.integers(1, 20),
    envs=st.integers(1, 5),
    after=st.integers(1, 6),
    min_share=st.sampled_from([0.0, 0.5, 0.9]),
    block_rows=st.sampled_from([16, 256]),
)
def test_a_ring_that_is_accepted_has_lines_for_all_its_blocks(
    cells: int, open_blocks: int, rows: int, envs: int, after: int, min_share: float, block_rows: int
) -> None:
    layout = RingLayout(cells, 1, after, 1 + int(min_share * cells), open_blocks, block_rows)
    if layout.problem(open_blocks, rows, envs) is not None:
        return
    smallest = min(layout.block_rows_for(r, e, open_blocks) * e for r in range(1, rows + 1) for e in range(1, envs + 1))
    assert cells // smallest <= layout.most_blocks


def test_more_blocks_than_there_are_lines_for_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError) as caught:
        fit_ring(signature(1, 1), 3073, after=5, open_blocks=256)
    assert str(caught.value) == (
        "the table leaves each of 256 actors a block of (capacity 3073 - min_size 1) / (2 x 256) = 6 rows, but it "
        "keeps at most 160 blocks, enough for those of 39 rows or more; set capacity to 32769 or more, or use fewer "
        "actors or a smaller min_size"
    )
    assert fit_ring(signature(1, 1), 32_769, after=5, open_blocks=256).most_blocks == 1088


def test_many_lives_of_short_unrolls_fill_the_ring(rng: np.random.Generator) -> None:
    spec = signature(1, 1)
    ring = Ring(spec, fit_ring(spec, 3000, after=5, open_blocks=30))
    lives = [CountingLife(slot, 1, 1, rng, end=0.0) for slot in range(30)]
    while not ring.evicted:
        items = ring.items
        for life in lives:
            ring.insert(life.slot, 1, life.seq + 1, life.unroll(1), 1, 1)
    assert items > 0.8 * 3000


def test_capacity_in_bytes_is_kept() -> None:
    spec, most = signature(MAX_ROWS, MAX_ENVS), 1_000_000
    for priorities in (False, True):
        for count_times in (False, True):
            layout = fit_ring(spec, 10**9, capacity_bytes=most, priorities=priorities, count_times=count_times)
            more = replace(layout, cells=layout.cells + 1)
            needs = [
                ring_bytes(spec, fitted, priorities=priorities, count_times=count_times) for fitted in (layout, more)
            ]
            assert needs[0] <= most < needs[1]
    with pytest.raises(
        ConfigError, match=r"\(capacity_bytes 500,000 has room for 0 rows, of capacity 100; a table takes"
    ):
        fit_ring(spec, 100, capacity_bytes=500_000, open_blocks=2)


def test_settings_that_make_no_ring_are_all_told() -> None:
    spec = signature(1, 1)
    columns = {name: column for name, column in spec.columns.items() if name != "valid"}
    broken = type(spec)({**columns, "obs": type(columns["obs"])(columns["obs"].array, 4)}, 1, 1)
    with pytest.raises(ConfigError) as caught:
        fit_ring(broken, 0, before=-1, after=0)
    assert len(caught.value.problems) == 4


def test_columns_of_a_first_row_and_stored_priorities(rng: np.random.Generator) -> None:
    plain = signature(MAX_ROWS, MAX_ENVS)
    columns = dict(plain.columns)
    columns["start"] = ColumnSpec(ArraySpec((), "int64"), window_rows="first")
    spec = Signature(columns, MAX_ROWS, MAX_ENVS)
    ring = Ring(spec, RingLayout(500, 2, 1), priorities=True)
    life = CountingLife(0, 1, 2, rng, end=0.0)
    unroll = life.unroll(4)
    priority = np.array([[0.5, 3.0], [np.inf, 1.0], [0.0, np.inf], [2.0, 2.0]], np.float32)
    ring.insert(0, 1, 1, {**unroll, "start": unroll["reward"], "priority": priority}, 4, 2)
    keys = live_keys(ring)
    assert ring.priority is not None
    stored = ring.priority[keys % 500].reshape(2, 4)  # env-major
    assert stored.tolist() == [[0.5, 1.0, 0.0, 2.0], [3.0, 1.0, 1.0, 2.0]]  # +inf: the largest until then, 1
    assert ring.max_priority == 3.0
    windows = ring.gather(keys)
    np.testing.assert_array_equal(windows["start"], windows["reward"][0])
    unroll = life.unroll(1)
    ring.insert(0, 1, 2, {**unroll, "start": unroll["reward"]}, 1, 2)
    assert ring.priority[live_keys(ring)[[4, 9]] % 500].tolist() == [3.0, 3.0]


def test_removed_items_are_none_but_were_inserted(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(200, 1, 1, block_rows=8), max_times=2)
    life = CountingLife(0, 1, 3, rng, end=0.0)
    ring.insert(0, 1, 1, life.unroll(6), 6, 3)
    keys = live_keys(ring)
    ring.remove(keys[:5])
    assert (ring.items, ring.inserted, ring.evicted) == (13, 18, 0)
    assert ring.alive(keys).tolist() == [False] * 5 + [True] * 13
    while ring.tail == 0:
        ring.insert(0, 1, life.seq, life.unroll(6), 6, 3)
    assert ring.inserted == ring.items + ring.evicted
    assert ring.items == len(live_keys(ring))
