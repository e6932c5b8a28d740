"""A slow twin of a ring: every valid row is an item exactly once, every window is true."""

from __future__ import annotations

from itertools import count

import numpy as np
from hypothesis import strategies as st

from core.types import Array
from replay_server.ring import Ring
from tests.unit.counting import STRIDE, CountingLife

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
        restarted = first == 0 and life.seq > 1
        new = ring.insert(life.slot, life.incarnation, life.seq, columns, rows, life.envs, restarted=restarted)
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
    """Each op: slot, rows, and a number: 0 ends the slot's life after it, 1 restarts its environments."""
    twin, numbers = Twin(ring), count(1)
    lives = [CountingLife(slot, 0, envs[slot], rng, end=0.2) for slot in range(3)]
    for i, (slot, rows, luck) in enumerate(ops):
        twin.insert(lives[slot], rows)
        if luck == 0:
            ring.end_life(slot, lives[slot].incarnation)
            lives[slot] = CountingLife(slot, next(numbers), envs[slot], rng, end=0.2)
        elif luck == 1:
            lives[slot] = lives[slot].restarted(next(numbers))
        if i % 8 == 7 or i == len(ops) - 1:
            twin.check()
    return twin


def many_ops(rng: np.random.Generator, n: int) -> list[tuple[int, int, int]]:
    return [(int(rng.integers(3)), int(rng.integers(1, MAX_ROWS + 1)), int(rng.integers(20))) for _ in range(n)]
