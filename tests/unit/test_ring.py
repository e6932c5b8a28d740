"""replay_server/ring.py against a slow twin: every valid row is an item exactly once, every window is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError, ItemRejectedError
from core.types import Array
from replay_server import ring as ring_module
from replay_server.layout import RingLayout, cell_bytes, fit_ring
from replay_server.ring import Block, Ring
from replay_server.storage import FileAllocator
from tests.unit.counting import STRIDE, CountingLife, signature

MAX_ROWS, MAX_ENVS = 6, 3


def live_keys(ring: Ring) -> Array:
    positions: Array = np.arange(ring.tail, ring.head)
    keys: Array = positions[ring.live[positions % ring.layout.cells] != 0]
    return keys


class Twin:
    """A ring that only ever grows: per life the rows that were sent, and since when their past is known.

    The one thing it is told is whether the ring had evicted a life's block, so that its past was gone.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.valid: dict[int, bool] = {}  # number of a row -> whether it is a step
        self.due: set[int] = set()  # numbers of all rows that ever became items
        self.keys: dict[int, int] = {}  # key -> number, of all items ever
        self.spans: dict[tuple[int, int], int] = {}  # life -> first row whose window's past is known

    def insert(self, life: CountingLife, rows: int) -> None:
        ring, name, first = self.ring, (life.slot, life.incarnation), life.row
        before = ring._open.get(name)
        columns = life.unroll(rows)
        old_items, old_evicted = ring.items, ring.evicted
        new = ring.insert(life.slot, life.incarnation, life.seq, columns, rows, life.envs)
        assert ring.items == old_items + new - (ring.evicted - old_evicted)
        if first == 0:
            self.spans[name] = 0
        elif before is None or before.start < ring.tail:
            self.spans[name] = first + ring.layout.before
        low = max(self.spans[name], first - ring.layout.after + 1)
        for t, b in np.ndindex(rows, life.envs):
            self.valid[int(columns["reward"][t, b])] = bool(columns["valid"][t, b])
        for row in range(low, life.row - ring.layout.after + 1):
            self.due |= {int(n) + row for n in life.base if self.valid[int(n) + row]}
        keys = live_keys(ring)
        for key, number in zip(keys.tolist(), ring.columns["reward"][keys % ring.layout.cells].tolist(), strict=True):
            assert self.keys.setdefault(key, number) == number

    def check(self) -> None:
        ring, before, after = self.ring, self.ring.layout.before, self.ring.layout.after
        keys = live_keys(ring)
        windows = ring.gather(keys)
        numbers = windows["reward"][before]
        assert sorted(self.keys.values()) == sorted(self.due)  # every row that is due, once, under one key
        assert {k for k in self.keys if k >= ring.tail} == set(keys.tolist())
        assert (len(keys), len(self.keys)) == (ring.items, ring.items + ring.evicted)
        first = numbers // STRIDE * STRIDE  # row 0 of the life: in front of it are copies that are no steps
        wanted = numbers + np.arange(-before, after + 1)[:, None]
        assert windows["obs"].shape == (before + after + 1, len(keys), 1)
        assert all(column.flags.c_contiguous for column in windows.values())
        np.testing.assert_array_equal(windows["obs"][..., 0], np.maximum(wanted, first))
        real = wanted[:-1] >= first
        np.testing.assert_array_equal(windows["reward"], np.where(real, wanted[:-1], 0))
        steps = [[self.valid.get(n, False) for n in row] for row in np.where(real, wanted[:-1], -1).tolist()]
        np.testing.assert_array_equal(windows["valid"], np.array(steps, np.uint8).reshape(windows["valid"].shape))
        assert ring.alive(keys).all()
        dead = np.setdiff1d(np.arange(ring.tail - 3, ring.head + 3), keys)
        assert not ring.alive(dead).any()
        assert ring.head - ring.tail <= ring.layout.cells


OPS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, MAX_ROWS), st.integers(0, 19)), min_size=1, max_size=60)


def run(ring: Ring, envs: list[int], ops: list[tuple[int, int, int]], rng: np.random.Generator) -> Twin:
    """Each op: slot, rows, and a number that is 0 when the slot's life ends after it."""
    twin = Twin(ring)
    lives = [CountingLife(slot, 0, envs[slot], rng, end=0.2) for slot in range(3)]
    for i, (slot, rows, luck) in enumerate(ops):
        twin.insert(lives[slot], rows)
        if luck == 0:
            ring.end_life(slot, lives[slot].incarnation)
            lives[slot] = CountingLife(slot, lives[slot].incarnation + 1, envs[slot], rng, end=0.2)
        if i % 8 == 7 or i == len(ops) - 1:
            twin.check()
    return twin


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


def many_ops(rng: np.random.Generator, n: int) -> list[tuple[int, int, int]]:
    return [(int(rng.integers(3)), int(rng.integers(1, MAX_ROWS + 1)), int(rng.integers(20))) for _ in range(n)]


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
    ops = [(slot, rows, 1) for slot, rows, _ in many_ops(rng, 20)]
    slow_first = [(0, 2, 1), *[(slot or 1, rows, luck) for slot, rows, luck in ops], *[(0, 6, 1)] * 3]
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
    assert ring._writers[ring._lost[0, 1]].tolist() == [0, 1, 1]  # its counter outlives its blocks
    twin.insert(slow, 4)
    twin.check()
    assert not ring._writers[:, 2].any()
    mine = [n for n in twin.ring.gather(live_keys(ring))["reward"][2].tolist() if n < 2000 * 100 * STRIDE]
    assert [n - int(slow.base[0]) for n in sorted(mine)] == [6, 7]  # rows 4 and 5 are context only
    ring.end_life(0, 1)
    ring.end_life(0, 1)


def test_an_unroll_that_changes_its_width_is_refused(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(500))
    ring.insert(0, 1, 1, CountingLife(0, 1, 2, rng).unroll(2), 2, 2)
    with pytest.raises(ItemRejectedError, match="sends 3 environments, its earlier unrolls had 2"):
        ring.insert(0, 1, 2, CountingLife(0, 1, 3, rng).unroll(2), 2, 3)


def test_without_evict_a_full_table_refuses_and_keeps_all(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(100, block_rows=8, evict=False))
    twin = Twin(ring)
    life = CountingLife(0, 1, 3, rng)

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


def test_capacity_in_bytes_is_kept(rng: np.random.Generator) -> None:
    spec = signature(MAX_ROWS, MAX_ENVS)
    assert cell_bytes(spec) == 8 + 8 + 1 + 1
    layout = fit_ring(spec, 10**9, capacity_bytes=18_000)
    assert layout.cells == 1000
    with pytest.raises(ConfigError, match=r"capacity_bytes 900 / 18 bytes a row = 50 rows, of capacity 100"):
        fit_ring(spec, 100, capacity_bytes=900, open_blocks=2)


def test_settings_that_make_no_ring_are_all_told() -> None:
    spec = signature(1, 1)
    columns = {name: column for name, column in spec.columns.items() if name != "valid"}
    broken = type(spec)({**columns, "obs": type(columns["obs"])(columns["obs"].array, 4)}, 1, 1)
    with pytest.raises(ConfigError) as caught:
        fit_ring(broken, 0, before=-1, after=0)
    assert len(caught.value.problems) == 4


# ------------------------------------------------------------------------------------------------ files


def test_files_hold_what_a_restart_needs(tmp_path: Path, rng: np.random.Generator) -> None:
    spec, layout = signature(MAX_ROWS, MAX_ENVS), RingLayout(300, 1, 2, block_rows=8, open_blocks=3)
    ring = Ring(spec, layout, FileAllocator(tmp_path))
    ops = many_ops(rng, 100)
    twin = run(ring, [1, 2, 3], ops, rng)
    header, blocks = np.fromfile(tmp_path / "header", np.int64), np.fromfile(tmp_path / "blocks", np.int64)
    assert header.tolist() == [ring.tail, 1, 300, 1, 2, 0, 0, 0]
    lines = blocks.reshape(-1, 8)
    lines = lines[(lines[:, ring_module.COMMIT] != 0) & (lines[:, ring_module.START] >= ring.tail)]
    assert sorted(lines[:, ring_module.START]) == [block.start for block in ring._order]
    obs = np.fromfile(tmp_path / "column.obs", np.int64)
    for block in ring._order:
        (line,) = lines[lines[:, ring_module.START] == block.start].tolist()
        assert line[0] & (1 << ring_module.FILLED_BITS) - 1 == block.filled
        assert line[1:7] == [block.start, block.envs, block.rows, block.low, *block.life]
        assert line[7] == (block is not ring._open.get(block.life) and line[7])
        at = block.start % 300 + block.filled  # the newest row of its first environment
        assert obs[at] in {n + 1 for n in twin.valid}
    open_lines = [line for line in lines if not line[ring_module.CLOSED]]
    assert set(ring._open) <= {(int(line[5]), int(line[6])) for line in open_lines}


def test_incarnations_of_64_bits_are_stored(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(500))
    ring.insert(0, 2**64 - 2, 1, CountingLife(0, 1, 2, rng).unroll(2), 2, 2)
    assert ring._blocks[ring._order[0].number, ring_module.INCARNATION] == -2


def test_the_commit_is_the_last_store_of_an_insert(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(500))
    columns = CountingLife(0, 1, 2, rng).unroll(2)
    with pytest.raises(TypeError):  # the last column fails: nothing is committed
        ring.insert(0, 1, 1, {**columns, "valid": None}, 2, 2)  # type: ignore[dict-item]
    assert not ring._blocks[:, ring_module.COMMIT].any()
    assert ring.items == 0
    ring.insert(0, 1, 1, columns, 2, 2)
    assert ring._blocks[0, ring_module.COMMIT] == 1 << ring_module.FILLED_BITS | 2
