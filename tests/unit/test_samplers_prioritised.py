"""PrioritisedSampler: what the ring tells it and what updates change, against a twin that computes all anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.errors import ConfigError, ReplayError, SchemaError
from replay_server.samplers import PrioritisedSampler
from tests.unit.test_samplers import Cells, make


def bound(ring: Cells, exponent: float = 0.6) -> PrioritisedSampler:
    sampler = PrioritisedSampler(len(ring.live), exponent)
    sampler.bind(ring)
    return sampler


def priorities(ring: Cells) -> NDArray[np.float32]:
    assert ring.priority is not None
    return ring.priority


def leaves(sampler: PrioritisedSampler, ring: Cells) -> NDArray[np.float64]:
    return sampler._tree.values(np.arange(len(ring.live)))


def agree(sampler: PrioritisedSampler, ring: Cells, exponent: float) -> None:
    """The leaves are what the ring's arrays say; and a sampler that is bound only now has the very same tree."""
    wanted = np.where(ring.live != 0, priorities(ring).astype(np.float64) ** exponent, 0.0)
    assert leaves(sampler, ring) == pytest.approx(wanted, rel=1e-12, abs=0)
    assert np.array_equal(sampler._tree._tree, bound(ring, exponent)._tree._tree)


def turn(ring: Cells, sampler: PrioritisedSampler, cells: NDArray[np.int64], live: int) -> None:
    ring.live[cells] = live
    ring.items = int(ring.live.sum())


@pytest.mark.slow
@given(
    cells=st.integers(2, 40),
    tail=st.integers(0, 100),
    exponent=st.sampled_from([0.0, 0.6, 1.0, 4.0]),
    data=st.data(),
)
def test_whatever_happens_the_tree_is_what_the_ring_says(
    cells: int, tail: int, exponent: float, data: st.DataObject
) -> None:
    ring = make(cells, tail, tail + cells, 0.5, data.draw(st.integers(0, 99)))
    sampler = bound(ring, exponent)
    steps = st.lists(st.sampled_from(["appeared", "vanished", "removed", "update"]), max_size=6)
    for what in data.draw(steps):
        if what == "update":
            pairs = data.draw(st.lists(st.tuples(st.integers(-5, 150), st.floats(0, 1e6, width=32)), max_size=30))
            keys, new = np.array([k for k, _ in pairs], np.int64), np.array([p for _, p in pairs], np.float32)
            wanted, dead = priorities(ring).copy(), 0
            for key, value in zip(keys.tolist(), new.tolist(), strict=True):
                if ring.tail <= key < ring.head and ring.live[key % cells]:
                    wanted[key % cells] = value
                else:
                    dead += 1
            assert sampler.update(keys, new) == dead
            assert np.array_equal(priorities(ring), wanted)
        elif what == "vanished":
            first = data.draw(st.integers(0, cells - 1))
            count = data.draw(st.integers(0, cells - first))
            turn(ring, sampler, np.arange(first, first + count), 0)
            sampler.vanished(first, count)
        else:
            some = np.array(sorted(data.draw(st.sets(st.integers(0, cells - 1)))), np.int64)
            turn(ring, sampler, some, int(what == "appeared"))
            (sampler.appeared if what == "appeared" else sampler.removed)(some)
        agree(sampler, ring, exponent)


@pytest.mark.parametrize("tail", [0, 300, 5 * 700 + 699])
def test_probabilities_are_those_of_the_keys(tail: int, rng: np.random.Generator) -> None:
    ring = make(700, tail, tail + 700, 0.8, 1)
    weights = np.where(ring.live != 0, priorities(ring).astype(np.float64) ** 0.6, 0.0)
    keys, probability = bound(ring).keys(ring, 512, rng, strata=2)
    assert ((keys >= ring.tail) & (keys < ring.head)).all()
    assert probability == pytest.approx(weights[keys % 700] / weights.sum(), rel=1e-12)
    assert (keys < tail + 100).any()
    assert (keys >= tail + 600).any()


def test_each_batch_is_spread_over_the_whole_mass(rng: np.random.Generator) -> None:
    ring = make(1000, 0, 1000, 1.0, 1)
    running = np.concatenate([[0.0], np.cumsum(priorities(ring).astype(np.float64) ** 0.6)])
    keys, _ = bound(ring).keys(ring, 4 * 50, rng, strata=4)
    low, high = running[keys] / running[-1] * 50, running[keys + 1] / running[-1] * 50
    stratum = np.arange(200) % 50
    assert ((low < stratum + 1 + 1e-9) & (high > stratum - 1e-9)).all()  # the item's mass and the stratum overlap
    assert len({tuple(batch) for batch in keys.reshape(4, 50).tolist()}) == 4


def test_items_of_one_priority_come_once_each_in_a_batch_of_all(rng: np.random.Generator) -> None:
    ring = make(64, 10, 74, 1.0, 1)
    priorities(ring)[:] = 2.0
    keys, probability = bound(ring).keys(ring, 64, rng)
    assert sorted(keys.tolist()) == list(range(10, 74))
    assert probability == pytest.approx(np.full(64, 1 / 64))


def test_batches_of_different_sizes_are_refused(rng: np.random.Generator) -> None:
    ring = make(64, 0, 64, 1.0, 1)
    with pytest.raises(ReplayError, match="a draw of 10 items in 3 batches"):
        bound(ring).keys(ring, 10, rng, strata=3)


def test_same_generator_same_keys_also_after_another_history(rng: np.random.Generator) -> None:
    ring = make(700, 1000, 1700, 0.9, 1)
    sampler = bound(ring)
    for _ in range(20):
        keys, _ = sampler.keys(ring, 100, rng)
        sampler.update(keys, rng.random(100).astype(np.float32))
    drawn = [s.keys(ring, 256, np.random.default_rng(1))[0].tolist() for s in (sampler, bound(ring))]
    assert drawn[0] == drawn[1]
    assert drawn[0] != sampler.keys(ring, 256, np.random.default_rng(2))[0].tolist()


def test_items_of_priority_zero_are_not_drawn_unless_all_are(rng: np.random.Generator) -> None:
    ring = make(100, 0, 100, 0.5, 1)
    sampler, items = bound(ring), ring.item_keys
    sampler.update(items, np.where(items == items[7], 1e-30, 0).astype(np.float32))
    keys, probability = sampler.keys(ring, 50, rng)
    assert set(keys.tolist()) == {int(items[7])}
    assert probability == pytest.approx(np.ones(50))
    sampler.update(items, np.zeros(len(items), np.float32))
    keys, probability = sampler.keys(ring, 4000, rng)
    assert set(keys.tolist()) == set(items.tolist())
    assert probability == pytest.approx(np.full(4000, 1 / len(items)))


def test_an_update_ignores_keys_that_are_no_items_any_more() -> None:
    ring = make(100, 1000, 1080, 1.0, 1)
    ring.live[1003 % 100], ring.items = 0, 79
    sampler, before = bound(ring), priorities(ring).copy()
    keys = np.array([999, 1080, 1003, -1, 903, 1005, 1 << 62])  # 903: the cell of 1003, 900 .. 999 are gone
    assert sampler.update(keys, np.full(7, 9.0, np.float32)) == 6
    before[5] = 9.0
    assert np.array_equal(priorities(ring), before)
    assert leaves(sampler, ring)[3] == 0
    agree(sampler, ring, 0.6)
    assert sampler.update(np.array([], np.int64), np.array([], np.float32)) == 0


def test_the_last_priority_of_a_key_stays_and_the_largest_is_kept() -> None:
    ring = make(100, 0, 100, 1.0, 1)
    sampler = bound(ring)
    assert sampler.update(np.array([4, 5, 4]), np.array([7, 2, 3], np.float32)) == 0
    assert priorities(ring)[[4, 5]].tolist() == [3, 2]
    assert ring.max_priority == 7
    sampler.update(np.array([4, 100]), np.array([6.5, 1000], np.float32))  # 100 is no item
    assert ring.max_priority == 7


def test_an_update_takes_what_came_by_wire_and_other_numbers() -> None:
    ring = make(100, 0, 100, 1.0, 1)
    sampler = bound(ring)
    wire = np.frombuffer(np.array([3.0, 4.0], np.float32).tobytes(), np.float32)  # read-only
    assert sampler.update(np.frombuffer(np.array([1, 2]).tobytes(), np.int64), wire) == 0
    every_third: NDArray[Any] = np.arange(10, dtype=np.uint16)[::3]
    assert sampler.update(every_third, np.array([5, 6, 7, 8])) == 0
    assert priorities(ring)[[1, 2, 0, 3, 6, 9]].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("keys", "new", "message"),
    [
        ([1, 2], np.ones(3, np.float32), r"shape \(3,\) for keys of shape \(2,\)"),
        ([[1, 2]], np.ones((1, 2), np.float32), r"keys of shape \(1, 2\); both must be \[n\]"),
        ([0.5, 2.0], np.ones(2, np.float32), "keys are float64"),
        ([1, 2], np.ones(2, np.complex64), "priorities complex64"),
        ([1, 2], np.array([1, np.nan], np.float32), "the priority of key 2 is nan"),
        ([1, 2], np.array([-1, 1], np.float32), "the priority of key 1 is -1.0; it must be a number from 0"),
        ([1, 2], np.array([1, np.inf], np.float32), r"the priority of key 2 is inf; .* to 3.4e\+38: look for"),
        ([1, 2], np.array([1, 1e39]), r"the priority of key 2 is 1e\+39"),
    ],
)
def test_what_are_no_priorities_is_refused_and_changes_nothing(
    keys: list[float], new: NDArray[np.float32], message: str
) -> None:
    ring = make(100, 0, 100, 1.0, 1)
    sampler, before = bound(ring), priorities(ring).copy()
    with pytest.raises(SchemaError, match=message):
        sampler.update(np.array(keys), new)
    assert np.array_equal(priorities(ring), before)
    agree(sampler, ring, 0.6)


@pytest.mark.parametrize("exponent", [-0.1, 4.1, float("nan"), float("inf")])
def test_an_exponent_that_cannot_be_used_is_refused(exponent: float) -> None:
    with pytest.raises(ConfigError, match=r"a priority exponent of .*; it must be in 0 .. 4.0"):
        PrioritisedSampler(10, exponent)


def test_the_largest_priorities_do_not_overflow(rng: np.random.Generator) -> None:
    ring = make(1000, 0, 1000, 1.0, 1)
    priorities(ring)[:] = np.finfo(np.float32).max
    _, probability = bound(ring, 4.0).keys(ring, 100, rng)
    assert probability == pytest.approx(np.full(100, 1e-3))


def test_a_ring_is_needed_and_one_with_priorities() -> None:
    with pytest.raises(ReplayError, match="bind it first"):
        PrioritisedSampler(10, 0.6).rebuilt()
    ring = make(10, 0, 10, 1.0, 1)
    ring.priority = None
    with pytest.raises(ReplayError, match="without priorities"):
        bound(ring)
