"""replay_server/tree.py against its naive twin: the same sums, the same cells, no drift."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from replay_server.tree import SumTree, kernel

Values = NDArray[np.float64]


class NaiveTree:
    """Leaves; all sums are made when they are asked for."""

    def __init__(self, cells: int) -> None:
        self.leaves = [0.0] * cells

    def levels(self) -> list[list[float]]:
        """The leaves, the sums of two of them, ... the sum of all."""
        size = 1
        while size < len(self.leaves):
            size *= 2
        levels = [self.leaves + [0.0] * (size - len(self.leaves))]
        while len(levels[-1]) > 1:
            below = levels[-1]
            levels.append([below[i] + below[i + 1] for i in range(0, len(below), 2)])
        return levels

    def find(self, mass: float) -> int:
        at = 0
        for level in reversed(self.levels()[:-1]):
            at *= 2
            if mass >= level[at] and level[at + 1] > 0:
                mass, at = mass - level[at], at + 1
        return at


def assert_agree(tree: SumTree, naive: NaiveTree) -> None:
    """Exactly the same leaves, total and found cells."""
    assert tree.values(np.arange(tree.cells)).tolist() == naive.leaves
    assert tree.total == naive.levels()[-1][0]
    if tree.total > 0:
        masses = np.concatenate([np.linspace(0, 1, 40) * tree.total, np.cumsum(naive.leaves), [2 * tree.total]])
        found = tree.find(masses)
        assert found.tolist() == [naive.find(mass) for mass in masses.tolist()]
        assert (tree.values(found) > 0).all()


VALUE = st.one_of(st.just(0.0), st.floats(0, 1e9), st.sampled_from([5e-324, 1e-300, 1e15, 0.1]))


@pytest.mark.slow
@given(cells=st.integers(1, 70), data=st.data())
def test_any_changes_give_what_the_naive_twin_has(cells: int, data: st.DataObject) -> None:
    tree, naive = SumTree(cells), NaiveTree(cells)
    for what in data.draw(st.lists(st.sampled_from(["set", "fill_zero", "rebuild"]), min_size=1, max_size=6)):
        if what == "set":  # in any order, the same cell several times, few or more than there are
            pairs = data.draw(st.lists(st.tuples(st.integers(0, cells - 1), VALUE), max_size=90))
            for cell, value in pairs:
                naive.leaves[cell] = value
            tree.set(np.array([c for c, _ in pairs], np.int64), np.array([v for _, v in pairs], np.float64))
        elif what == "fill_zero":
            first = data.draw(st.integers(0, cells))
            count = data.draw(st.integers(0, cells - first))
            naive.leaves[first : first + count] = [0.0] * count
            tree.fill_zero(first, count)
        else:
            naive.leaves = data.draw(st.lists(VALUE, min_size=cells, max_size=cells))
            tree.rebuild(np.array(naive.leaves))
        assert_agree(tree, naive)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any))
def test_with_whole_numbers_the_found_cell_is_that_of_the_running_sum(values: list[int]) -> None:
    tree = SumTree(len(values))
    tree.rebuild(np.array(values, np.float64))
    masses = np.arange(sum(values), dtype=np.float64)[:: max(1, sum(values) // 500)]
    assert tree.find(masses).tolist() == np.searchsorted(np.cumsum(values), masses, "right").tolist()


def test_a_mass_at_or_past_the_end_finds_the_last_cell_above_zero() -> None:
    tree = SumTree(1000)
    tree.set(np.array([3, 700]), np.array([0.1, 0.2]))
    ends = np.array([0.0, np.nextafter(0.1, 0), 0.1, tree.total, np.nextafter(tree.total, 9), 1e300])
    assert tree.find(ends).tolist() == [3, 3, 700, 700, 700, 700]


def test_finding_leaves_the_masses_as_they_are() -> None:
    tree, masses = SumTree(4), np.array([0.5, 2.5])
    tree.rebuild(np.ones(4))
    assert tree.find(masses).tolist() == [0, 2]
    assert masses.tolist() == [0.5, 2.5]


def drift(change: str, rng: np.random.Generator) -> float:
    """How far the total is from the sum, relative, after 100 000 changes over twelve orders of magnitude."""
    cells, total = 1000, 0.0
    tree, leaves = SumTree(cells), np.zeros(cells)
    for _ in range(1000):
        at, values = rng.permutation(cells)[:100], 10.0 ** rng.uniform(-6, 6, 100)
        tree.set(at, values)
        for cell, value in zip(at.tolist(), values.tolist(), strict=True):
            total += value - leaves[cell]
            leaves[cell] = value
    small = rng.random(cells) * 1e-6
    tree.set(np.arange(cells), small)
    total += float((small - leaves).sum())
    return abs((tree.total if change == "recomputed" else total) / float(small.sum()) - 1)


def test_sums_do_not_drift_where_incremented_ones_do(rng: np.random.Generator) -> None:
    state = rng.bit_generator.state
    assert drift("recomputed", rng) < 1e-12
    rng.bit_generator.state = state
    assert drift("incremented", rng) > 1e-9  # so the changes are such that a drift is seen


def test_the_tree_is_a_function_of_its_leaves(rng: np.random.Generator) -> None:
    one, other, values = SumTree(777), SumTree(777), rng.random(777)
    for cells in np.array_split(rng.permutation(777), 40):
        one.set(cells, rng.random(len(cells)))
    for cells in np.array_split(rng.permutation(777), 25):
        one.set(cells, values[cells])
    other.rebuild(values)
    assert np.array_equal(one._tree, other._tree)


def test_powers_are_those_of_the_named_cells(rng: np.random.Generator) -> None:
    tree, whole = SumTree(100), SumTree(100)
    priority, live = rng.random(100).astype(np.float32), rng.random(100) < 0.5
    cells = np.flatnonzero(live)
    tree.set_powers(cells, priority, 0.6)
    wanted = np.where(live, priority.astype(np.float64) ** 0.6, 0)
    assert tree.values(np.arange(100)) == pytest.approx(wanted, rel=1e-12)
    whole.rebuild_powers(live.astype(np.uint8), priority, 0.6)
    assert np.array_equal(tree._tree, whole._tree)


def test_what_does_not_fit_is_refused_before_anything_changes() -> None:
    tree = SumTree(5)
    for cells in ([0, 5], [-1, 0]):
        with pytest.raises(IndexError, match="of 5"):
            tree.set(np.array(cells), np.ones(2))
        with pytest.raises(IndexError, match="of 5"):
            tree.set_powers(np.array(cells), np.ones(5, np.float32), 1.0)
    with pytest.raises(ValueError, match="values for"):
        tree.set(np.arange(3), np.ones(2))
    for first, count in ((3, 3), (-1, 2), (0, -1)):
        with pytest.raises(IndexError, match="of 5"):
            tree.fill_zero(first, count)
    with pytest.raises(ValueError, match="for 5 cells"):
        tree.rebuild_powers(np.ones(4, np.uint8), np.ones(5, np.float32), 1.0)
    with pytest.raises(ValueError, match="at least one"):
        SumTree(0)
    assert tree.total == 0


def test_without_a_folder_for_machine_code_kernels_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def njit(signature: str, cache: bool = False, **_options: object) -> object:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert kernel("int64(int64)")(abs)(-3) == 3
    assert asked == [True, False]
