"""learner/pace.py: the arithmetic of updates, and draws that are cut and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner.pace import Part, UpdateCount, draw_seed, join, latest, split


def test_updates_are_the_floor_of_an_exact_product_whatever_the_rounds() -> None:
    count = UpdateCount(min_size=1000, updates_per_env_step=0.5)
    assert [count.due(n) for n in (384, 384, 231, 1, 1, 1, 3, 384, 0)] == [0, 0, 0, 0, 0, 1, 1, 192, 0]
    assert (count.env_steps, count.updates) == (1389, 194)  # floor(389 x 0.5)


@pytest.mark.parametrize(("ratio", "tenths"), [(0.1, 1), (0.3, 3), (0.7, 7), (2.9, 29)])
def test_decimals_count_as_they_were_written(ratio: float, tenths: int) -> None:
    rng = np.random.default_rng(5)
    count = UpdateCount(100, ratio)
    done = env_steps = 0
    for n in rng.integers(0, 40, 500):
        env_steps += int(n)
        done += count.due(int(n))
        assert done == max(0, env_steps - 100) * tenths // 10
    ten = UpdateCount(0, ratio)
    assert sum(ten.due(1) for _ in range(10)) == tenths  # in floats, 10 x 0.7 is under 7 where it is added up


def test_what_may_not_be_drawn_yet_is_due_later() -> None:
    count = UpdateCount(10, 1.0)
    assert [count.due(15, may_draw=False), count.due(5), count.due(5)] == [0, 10, 5]


@pytest.mark.parametrize(
    ("batches", "batch_size", "max_items", "parts"),
    [
        (16, 64, 1024, [(16, 64)]),
        (16, 64, 1023, [(15, 64), (1, 64)]),
        (7, 64, 130, [(2, 64), (2, 64), (2, 64), (1, 64)]),
        (2, 10, 4, [(1, 4), (1, 4), (1, 2), (1, 4), (1, 4), (1, 2)]),
        (1, 8, 4, [(1, 4), (1, 4)]),
        (0, 64, 1024, []),
    ],
)
def test_draws_stay_under_the_servers_limit(
    batches: int, batch_size: int, max_items: int, parts: list[tuple[int, int]]
) -> None:
    found = split(batches, batch_size, max_items)
    assert found == [Part(*part) for part in parts]
    assert sum(p.batches * p.batch_size for p in found) == batches * batch_size


def test_several_draws_are_put_together_in_order() -> None:
    def drawn(first: int, n: int) -> dict[str, Any]:
        numbers = np.arange(first, first + n)
        return {"obs": np.stack([numbers, 100 + numbers]), "memory": numbers[:, None], "key": numbers}

    joined = join([drawn(0, 3), drawn(3, 2)], {"memory", "key"})
    assert joined["obs"].tolist() == [[0, 1, 2, 3, 4], [100, 101, 102, 103, 104]]
    assert joined["memory"].tolist() == [[0], [1], [2], [3], [4]]
    assert joined["key"].tolist() == [0, 1, 2, 3, 4]
    one = drawn(0, 3)
    assert join([one], ()) is one


def test_priorities_of_several_batches_keep_their_order() -> None:
    assert latest([]) is None
    found = latest([(np.array([1, 2]), np.array([0.5, 0.25])), (np.array([2]), np.array([9.0]))])
    assert found is not None
    assert [column.tolist() for column in found] == [[1, 2, 2], [0.5, 0.25, 9.0]]


def test_a_resumed_run_draws_other_items_and_always_the_same() -> None:
    assert draw_seed(5, 0) == 5
    assert draw_seed(5, 20) == draw_seed(5, 20)
    assert len({draw_seed(5, 0), draw_seed(5, 20), draw_seed(5, 21), draw_seed(6, 20)}) == 4
    assert 0 <= draw_seed((1 << 63) - 1, 1 << 40) < 1 << 64
