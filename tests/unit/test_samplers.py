"""replay_server/samplers.py: each item as often as it should be, by chi-square, and wrong samplers are found out."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import ReplayError
from replay_server.samplers import Items, Keys, PrioritisedSampler, Probabilities, Sampler, UniformSampler

FAIR, FOUND_OUT = 1e-3, 1e-6  # of a fair sampler p is over the one, of a wrong sampler under the other
SEED = 20  # fixed: one run in a thousand of a fair sampler would have a p below FAIR


@dataclass
class Cells:
    """What a sampler reads of a ring."""

    tail: int
    head: int
    items: int
    live: NDArray[np.uint8]
    priority: NDArray[np.float32] | None = None
    max_priority: float = 1.0

    @property
    def item_keys(self) -> NDArray[np.int64]:
        positions = np.arange(self.tail, self.head)
        keys: NDArray[np.int64] = positions[self.live[positions % len(self.live)] != 0]
        return keys


def make(cells: int, tail: int, head: int, share: float, seed: int) -> Cells:
    rng = np.random.default_rng(seed)
    live = np.zeros(cells, np.uint8)
    live[np.arange(tail, head) % cells] = rng.random(head - tail) < share
    return Cells(tail, head, int(live.sum()), live, rng.uniform(0.2, 3.0, cells).astype(np.float32))


def p_value(statistic: float, freedom: int) -> float:
    """With which probability a chi-square of so many degrees of freedom is at least this (Wilson and Hilferty)."""
    ninth = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - ninth)) / ninth**0.5
    return 0.5 * math.erfc(z / 2**0.5)


def p_of(sampler: Sampler, ring: Cells, weights: NDArray[np.float64], batch: int, seed: int) -> float:
    """The p of the keys that `sampler` draws, `batch` at a time, if items are to come in proportion to `weights`."""
    draws = 128 * ring.items
    keys, _ = sampler.keys(ring, draws, np.random.default_rng(seed), strata=draws // batch)
    assert keys.shape == (draws,)
    assert keys.dtype == np.int64
    counts = np.bincount(keys - ring.tail, minlength=ring.head - ring.tail)[ring.item_keys - ring.tail]
    assert counts.sum() == draws  # nothing but items
    expected = weights * (draws / weights.sum())
    assert expected.min() >= 10
    return p_value(float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1)


RINGS = [
    (700, 0, 700, 0.9),
    (700, 1000, 1650, 0.95),
    (700, 1000, 1650, 1.0),
    (997, 5 * 997 + 13, 6 * 997 + 13, 0.3),
    (5000, 0, 5000, 0.02),
]


class NextLive(UniformSampler):
    """Draws a position and takes the first item from there on: items after holes are drawn more often."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        assert isinstance(ring, Cells)
        live = ring.item_keys
        return live[np.searchsorted(live, rng.integers(ring.tail, live[-1] + 1, n))], None


class Recent(UniformSampler):
    """The newer half of the items is drawn a little more often."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        assert isinstance(ring, Cells)
        return ring.item_keys[(rng.random(n) ** 0.9 * ring.items).astype(np.int64)], None


@pytest.mark.parametrize(("cells", "tail", "head", "share"), RINGS)
def test_uniform_gives_every_item_the_same_probability(cells: int, tail: int, head: int, share: float) -> None:
    ring = make(cells, tail, head, share, SEED)
    assert p_of(UniformSampler(), ring, np.ones(ring.items), 1, SEED + 1) > FAIR


@pytest.mark.parametrize("wrong", [NextLive, Recent])
def test_a_sampler_that_is_nearly_uniform_is_found_out(wrong: type[UniformSampler]) -> None:
    ring = make(700, 0, 700, 0.9, SEED)
    assert p_of(wrong(), ring, np.ones(ring.items), 1, SEED + 1) < FOUND_OUT


def weights_of(ring: Cells, exponent: float) -> NDArray[np.float64]:
    assert ring.priority is not None
    return ring.priority[ring.item_keys % len(ring.live)].astype(np.float64) ** exponent


def bound(sampler: PrioritisedSampler, ring: Cells) -> PrioritisedSampler:
    sampler.bind(ring)
    return sampler


class OffByOne(PrioritisedSampler):
    """Takes the item after the one that the mass belongs to."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        keys, probability = super().keys(ring, n, rng, strata)
        assert isinstance(ring, Cells)
        live = ring.item_keys
        return live[(np.searchsorted(live, keys) + 1) % len(live)], probability


class NoExponent(PrioritisedSampler):
    """Draws with the plain priority."""

    def __init__(self, cells: int, exponent: float) -> None:
        super().__init__(cells, 1.0)


class Shifted(PrioritisedSampler):
    """A key without regard to where the tail is in the ring."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        keys, probability = super().keys(ring, n, rng, strata)
        assert isinstance(ring, Cells)
        live = ring.item_keys
        return live[(np.searchsorted(live, keys) + ring.tail) % len(live)], probability


@pytest.mark.parametrize("exponent", [0.6, 0.0, 1.0])
@pytest.mark.parametrize(("cells", "tail", "head", "share"), RINGS)
def test_prioritised_draws_in_proportion_to_the_power(
    cells: int, tail: int, head: int, share: float, exponent: float
) -> None:
    ring = make(cells, tail, head, share, SEED)
    sampler = bound(PrioritisedSampler(cells, exponent), ring)
    for batch in (1, 16):  # batches of one are independent draws, for which the limit is exact
        assert p_of(sampler, ring, weights_of(ring, exponent), batch, SEED + 2) > FAIR


@pytest.mark.parametrize("wrong", [OffByOne, NoExponent, Shifted])
@pytest.mark.parametrize("batch", [1, 16])
def test_a_prioritised_sampler_that_is_wrong_is_found_out(wrong: type[PrioritisedSampler], batch: int) -> None:
    ring = make(700, 1000, 1650, 0.95, SEED)
    assert p_of(bound(wrong(700, 0.6), ring), ring, weights_of(ring, 0.6), batch, SEED + 2) < FOUND_OUT


@pytest.mark.parametrize("freedom", [5, 50, 600])
def test_p_values_of_true_chi_squares_are_spread_evenly(freedom: int) -> None:
    sums = np.random.default_rng(SEED).chisquare(freedom, 100_000)
    for p in (1e-3, 1e-2, 0.5):
        share = np.mean([p_value(s, freedom) < p for s in sums[: min(100_000, int(1000 / p))].tolist()])
        assert share == pytest.approx(p, rel=0.25)
    assert p_value(182.0, 100) == pytest.approx(1e-6, rel=0.3)  # a table's value


def test_same_generator_same_keys() -> None:
    ring = make(700, 1000, 1650, 0.9, 1)
    first, again, other = (UniformSampler().keys(ring, 256, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_one_item_among_many_cells_is_found() -> None:
    ring = make(100_000, 0, 100_000, 0.0, 1)
    ring.live[77_777], ring.items = 1, 1
    assert UniformSampler().keys(ring, 3, np.random.default_rng(0))[0].tolist() == [77_777] * 3


def test_an_empty_ring_is_an_error() -> None:
    ring, rng = make(100, 0, 100, 0.0, 1), np.random.default_rng(0)
    for sampler in (UniformSampler(), bound(PrioritisedSampler(100, 0.6), ring)):
        with pytest.raises(ReplayError, match="a sample of 3 items from a table that holds none"):
            sampler.keys(ring, 3, rng)
        with pytest.raises(ReplayError, match="a sample of 3 items from a table that holds none"):
            sampler.keys(Cells(5, 5, 0, ring.live), 3, rng)


def test_uniform_needs_to_be_told_nothing() -> None:
    ring, sampler = make(700, 0, 700, 0.9, 1), UniformSampler()
    before, probability = sampler.keys(ring, 9, np.random.default_rng(1), strata=3)
    sampler.appeared(np.arange(3))
    sampler.vanished(0, 3)
    sampler.removed(np.arange(3))
    sampler.rebuilt()
    assert sampler.keys(ring, 9, np.random.default_rng(1))[0].tolist() == before.tolist()
    assert probability is None


@pytest.mark.slow
def test_a_uniform_table_does_not_import_numba() -> None:
    code = "import sys; from replay_server.samplers import UniformSampler; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
