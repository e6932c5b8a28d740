"""replay_server/limiter.py: the running diff beside every line, and no deadlock under the rule."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from core.errors import ConfigError, ReplayError
from replay_server.limiter import RateLimiter, default_error_buffer, least_error_buffer


def test_inserts_and_samples_by_the_numbers() -> None:
    # bounds of diff: 2 x 3 -+ 5 = 1 .. 11
    limiter = RateLimiter(2.0, 3, 5.0, max_insert=2, max_sample=4)
    assert (limiter.lower, limiter.upper) == (1.0, 11.0)
    assert limiter.may_insert(2)  # diff 0 + 4 = 4 <= 11
    assert not limiter.may_sample(1)  # inserted 0 < 3
    limiter.record_insert(2)  # diff = 4
    assert not limiter.may_sample(1)  # inserted 2 < 3, though 4 - 1 = 3 >= 1
    limiter.record_insert(1)  # diff = 6
    assert limiter.may_sample(4)  # 6 - 4 = 2 >= 1
    limiter.record_sample(4)  # diff = 2
    assert limiter.may_sample(1)  # 2 - 1 = 1 >= 1
    assert not limiter.may_sample(2)  # 2 - 2 = 0 < 1
    limiter.record_insert(2)  # diff = 6
    limiter.record_insert(2)  # diff = 10
    assert not limiter.may_insert(1)  # 10 + 2 = 12 > 11
    limiter.record_sample(1)  # diff = 9
    assert limiter.may_insert(1)  # 9 + 2 = 11 <= 11
    assert not limiter.may_insert(2)  # 9 + 4 = 13 > 11
    assert limiter.diff == 9.0


def test_reasons_hold_the_arithmetic() -> None:
    limiter = RateLimiter(2.0, 3, 5.0, max_insert=2, max_sample=4)
    assert limiter.why_insert_waits(2) is None
    assert limiter.why_sample_waits(1) == (
        "a sample waits for the first items: inserted 0 of min_size 3; the actors must insert 3 more"
    )
    limiter.record_insert(5)  # diff = 10
    assert limiter.why_sample_waits(4) is None  # 10 - 4 = 6 >= 1
    assert limiter.why_insert_waits(2) == (
        "an insert of 2 items waits for samples: diff 10 + 2 x 2 = 14 is over 2 x min_size 3 + error_buffer 5 = 11 "
        "(inserted 5, sampled 0); the learner must sample 3 more"
    )
    limiter.record_sample(7)  # diff = 3
    assert limiter.why_sample_waits(4) == (
        "a sample of 4 items waits for inserts: diff 3 - 4 = -1 is under 2 x min_size 3 - error_buffer 5 = 1 "
        "(inserted 5, sampled 7); the actors must insert 1 more"
    )


def test_without_a_bound_only_min_size_counts() -> None:
    limiter = RateLimiter(1.0, 3, math.inf, max_insert=2, max_sample=4)
    for _ in range(100):
        assert limiter.may_insert(2)
        assert limiter.may_sample(4) == (limiter.inserted >= 3)
        limiter.record_insert(2)
    limiter.record_sample(10_000)  # diff = -9800
    assert limiter.may_sample(4)


def test_sizes_over_the_limit_are_refused() -> None:
    limiter = RateLimiter(1.0, 1, max_insert=2, max_sample=4)
    with pytest.raises(ReplayError, match="an insert of 3 items, the table's limit is 2"):
        limiter.may_insert(3)
    with pytest.raises(ReplayError, match="a sample of 5 items, the table's limit is 4"):
        limiter.may_sample(5)


def test_settings_that_deadlock_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError) as caught:
        RateLimiter(8.0, 1000, 100.0, max_insert=64, max_sample=256)
    assert caught.value.problems == (
        "the table would deadlock before its first sample: error_buffer 100 is under max_insert 64 x "
        "samples_per_insert 8 = 512; set error_buffer to 512 or more, or send smaller unrolls",
        "the table would deadlock: 2 x error_buffer 100 = 200 is under max_insert 64 x samples_per_insert 8 + "
        "max_sample 256 = 768; set error_buffer to 512 or more, or use smaller unrolls or batches",
    )
    RateLimiter(8.0, 1000, 512.0, max_insert=64, max_sample=256)


def test_all_bad_numbers_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RateLimiter(-1.0, 0, math.nan, max_insert=0, max_sample=1)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("spi", [0.1, 1 / 3, 1.0, 7.3, 128.0])
@pytest.mark.parametrize(("max_insert", "max_sample"), [(1, 1), (3, 1000), (4096, 64)])
def test_default_and_least_buffers_are_accepted_and_less_is_not(spi: float, max_insert: int, max_sample: int) -> None:
    least = least_error_buffer(spi, max_insert, max_sample)
    assert RateLimiter(spi, 10, max_insert=max_insert, max_sample=max_sample).error_buffer == default_error_buffer(
        spi, max_insert, max_sample
    )
    RateLimiter(spi, 10, least, max_insert=max_insert, max_sample=max_sample)
    with pytest.raises(ConfigError, match="deadlock"):
        RateLimiter(spi, 10, least - 1, max_insert=max_insert, max_sample=max_sample)


def deadlocks(limiter: RateLimiter, sizes: tuple[int, ...], sample: int, most: int = 60) -> bool:
    """Whether some order of inserts and samples ends where no sample and no insert may go. Tries all of them."""
    seen, todo = set(), [(0, 0)]
    while todo:
        state = todo.pop()
        if state in seen or state[0] > most:
            continue
        seen.add(state)
        limiter.inserted, limiter.sampled = state
        may = [n for n in sizes if limiter.may_insert(n)]
        samples = limiter.may_sample(sample)
        if not may and not samples:
            return True
        todo += [(state[0] + n, state[1]) for n in may]
        todo += [(state[0], state[1] + sample)] if samples else []
    return False


CASES = list(itertools.product(((1,), (2,), (1, 4), (5,)), (1, 2, 4, 7), (0.5, 1.0, 3.0), (1, 3, 8)))


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 4), (5,)])
def test_no_deadlock_at_the_narrowest_buffer(sizes: tuple[int, ...]) -> None:
    for _, sample, spi, min_size in (case for case in CASES if case[0] == sizes):
        insert = max(sizes) * Fraction(spi)
        narrowest = float(max(insert, (insert + sample) / 2))
        limiter = RateLimiter(spi, min_size, narrowest, max_insert=max(sizes), max_sample=sample)
        assert not deadlocks(limiter, sizes, sample, most=30), (sizes, sample, spi, min_size, narrowest)


def test_rounding_does_not_bring_the_deadlock_back() -> None:
    spi, insert, sample = 0.1, 3, 1
    for min_size in range(1, 12):
        limiter = RateLimiter(spi, min_size, float((insert * Fraction(spi) + sample) / 2), max_insert=3, max_sample=1)
        assert not deadlocks(limiter, (insert,), sample)


def test_a_buffer_below_the_rule_does_deadlock() -> None:
    class Unchecked(RateLimiter):
        """The limiter with a narrower buffer than it was checked with."""

        def narrow(self, by: int) -> Unchecked:
            assert self._buffer is not None
            self._buffer -= by * self._unit
            return self

    found = 0
    for sizes, sample, spi, min_size in CASES:
        least = least_error_buffer(spi, max(sizes), sample)
        limiter = Unchecked(spi, min_size, least, max_insert=max(sizes), max_sample=sample)
        found += deadlocks(limiter.narrow(min(2, least)), sizes, sample, most=20)
    assert found > len(CASES) // 3
