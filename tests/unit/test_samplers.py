"""replay_server/samplers.py: uniform by chi-square, and a sampler that is nearly uniform is found out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import ReplayError
from replay_server.samplers import Sampler, UniformSampler

P = 1e-6
Z_OF_P = 4.753424  # standard normal quantile of 1 - P


@dataclass
class Cells:
    """What a sampler reads of a ring."""

    tail: int
    head: int
    items: int
    live: NDArray[np.uint8]


def make(cells: int, tail: int, head: int, share: float, seed: int) -> Cells:
    live = np.zeros(cells, np.uint8)
    positions = np.arange(tail, head)
    live[positions % cells] = np.random.default_rng(seed).random(head - tail) < share
    return Cells(tail, head, int(live.sum()), live)


def chi_square_limit(freedom: int) -> float:
    """The value that a chi-square of so many degrees of freedom is over with probability P (Wilson and Hilferty)."""
    ninth = 2 / (9 * freedom)
    return float(freedom * (1 - ninth + Z_OF_P * ninth**0.5) ** 3)


def chi_square(sampler: Sampler, ring: Cells, draws: int, seed: int) -> tuple[float, int]:
    """(statistic, degrees of freedom) of the keys against a uniform choice of the live ones."""
    positions = np.arange(ring.tail, ring.head)
    live = positions[ring.live[positions % len(ring.live)] != 0]
    keys = sampler.keys(ring, draws, np.random.default_rng(seed))
    assert keys.shape == (draws,)
    counts = np.bincount(keys - ring.tail, minlength=ring.head - ring.tail)
    assert counts[live - ring.tail].sum() == draws  # nothing but items
    expected = draws / len(live)
    assert expected >= 10
    return float(((counts[live - ring.tail] - expected) ** 2).sum() / expected), len(live) - 1


RINGS = [(700, 0, 700, 0.9), (700, 1000, 1650, 0.95), (997, 5 * 997 + 13, 6 * 997 + 13, 0.3), (5000, 0, 5000, 0.02)]


@pytest.mark.parametrize(("cells", "tail", "head", "share"), RINGS)
def test_every_item_has_the_same_probability(cells: int, tail: int, head: int, share: float, seed: int) -> None:
    ring = make(cells, tail, head, share, seed)
    statistic, freedom = chi_square(UniformSampler(), ring, 100 * ring.items, seed + 1)
    assert statistic < chi_square_limit(freedom)


def test_a_sampler_that_prefers_the_item_after_a_hole_is_found_out(seed: int) -> None:
    class NextLive:
        """Draws a position and takes the first item from there on: items after holes are drawn more often."""

        def keys(self, ring: Cells, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
            positions = np.arange(ring.tail, ring.head)
            live = positions[ring.live[positions % len(ring.live)] != 0]
            drawn = rng.integers(ring.tail, live[-1] + 1, n)
            keys: NDArray[np.int64] = live[np.searchsorted(live, drawn)]
            return keys

    ring = make(700, 0, 700, 0.9, seed)
    statistic, freedom = chi_square(NextLive(), ring, 100 * ring.items, seed + 1)  # type: ignore[arg-type]
    assert statistic > chi_square_limit(freedom)


def test_the_limit_is_the_quantile_that_it_says(rng: np.random.Generator) -> None:
    assert chi_square_limit(100) == pytest.approx(182.0, abs=1.5)  # table value for p = 1e-6
    sums = (rng.standard_normal((2000, 50)) ** 2).sum(axis=1)
    assert sums.max() < chi_square_limit(50)


def test_same_generator_same_keys() -> None:
    ring = make(700, 1000, 1650, 0.9, 1)
    first, again, other = (UniformSampler().keys(ring, 256, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_one_item_among_many_cells_is_found() -> None:
    ring = make(100_000, 0, 100_000, 0.0, 1)
    ring.live[77_777], ring.items = 1, 1
    assert UniformSampler().keys(ring, 3, np.random.default_rng(0)).tolist() == [77_777] * 3


def test_an_empty_ring_is_an_error() -> None:
    with pytest.raises(ReplayError, match="a sample of 3 items from a table that holds none"):
        UniformSampler().keys(make(100, 0, 100, 0.0, 1), 3, np.random.default_rng(0))
