"""The rate limiter: from counts alone, may an insert or a sample go now? Pure, one thread.

With diff = inserted x samples_per_insert - sampled, in units of samples:

    insert n items   iff  diff + n x samples_per_insert <= samples_per_insert x min_size + error_buffer
    sample m items   iff  inserted >= min_size  and  diff - m >= samples_per_insert x min_size - error_buffer

Both can be refused at once, for ever, when the buffer is too narrow for the sizes in use. That cannot happen if

    2 x error_buffer >= max_insert x samples_per_insert + max_sample   (one of the two always fits)
    error_buffer >= max_insert x samples_per_insert                    (inserts go on until min_size is reached)

so a limiter that breaks this rule is refused at construction. The comparisons are exact: all numbers are integers of
one small unit (floats are fractions of a power of two); rounding would deadlock where the rule just holds.
"""

from __future__ import annotations

import math
from fractions import Fraction

from core.errors import ConfigError, ReplayError


def least_error_buffer(samples_per_insert: float, max_insert: int, max_sample: int) -> int:
    """The narrowest whole buffer, in samples, that cannot deadlock."""
    insert = max_insert * Fraction(samples_per_insert)
    return math.ceil(max(insert, (insert + max_sample) / 2))


def default_error_buffer(samples_per_insert: float, max_insert: int, max_sample: int) -> int:
    """Twice what the rule needs: neither side has to wait for the other's very next call."""
    return 2 * least_error_buffer(samples_per_insert, max_insert, max_sample)


class RateLimiter:
    """Holds the ratio of samples to inserts near `samples_per_insert`, within `error_buffer` samples.

    `max_insert` and `max_sample` are the most items that one call may ask for. `error_buffer` None takes the default;
    infinity never limits the ratio and leaves `min_size` alone.
    """

    def __init__(
        self,
        samples_per_insert: float,
        min_size: int,
        error_buffer: float | None = None,
        *,
        max_insert: int,
        max_sample: int,
    ) -> None:
        ConfigError.raise_if(_problems(samples_per_insert, min_size, error_buffer, max_insert, max_sample))
        if error_buffer is None:
            error_buffer = default_error_buffer(samples_per_insert, max_insert, max_sample)
        self.samples_per_insert = float(samples_per_insert)
        self.min_size = min_size
        self.error_buffer = float(error_buffer)
        self.max_insert = max_insert
        self.max_sample = max_sample
        self.inserted = 0
        self.sampled = 0
        spi, buffer = Fraction(samples_per_insert), Fraction(error_buffer) if math.isfinite(error_buffer) else None
        self._unit = math.lcm(spi.denominator, buffer.denominator if buffer else 1)
        self._spi = int(spi * self._unit)
        self._buffer = None if buffer is None else int(buffer * self._unit)

    @property
    def diff(self) -> float:
        """Samples that the inserted items are still good for."""
        return self.inserted * self.samples_per_insert - self.sampled

    @property
    def upper(self) -> float:
        """No insert may bring diff above this."""
        return self.samples_per_insert * self.min_size + self.error_buffer

    @property
    def lower(self) -> float:
        """No sample may bring diff below this."""
        return self.samples_per_insert * self.min_size - self.error_buffer

    def may_insert(self, items: int) -> bool:
        """Whether `items` may be inserted now. ReplayError above `max_insert`, which could wait for ever."""
        if items > self.max_insert:
            raise ReplayError(
                f"an insert of {items} items, the table's limit is {self.max_insert}: send smaller unrolls"
            )
        if self._buffer is None:
            return True
        diff = self.inserted * self._spi - self.sampled * self._unit
        return diff + items * self._spi <= self._spi * self.min_size + self._buffer

    def may_sample(self, items: int) -> bool:
        """Whether `items` may be sampled now. ReplayError above `max_sample`, which could wait for ever."""
        if items > self.max_sample:
            raise ReplayError(f"a sample of {items} items, the table's limit is {self.max_sample}: ask for fewer")
        if self._buffer is None or self.inserted < self.min_size:
            return self.inserted >= self.min_size
        diff = self.inserted * self._spi - self.sampled * self._unit
        return diff - items * self._unit >= self._spi * self.min_size - self._buffer

    def record_insert(self, items: int) -> None:
        """`items` were inserted."""
        self.inserted += items

    def record_sample(self, items: int) -> None:
        """`items` were sampled."""
        self.sampled += items

    def why_insert_waits(self, items: int) -> str | None:
        """The arithmetic that holds an insert of `items` back, and who must act; None if it may go."""
        if self.may_insert(items):
            return None
        spi = self.samples_per_insert
        after = self.diff + items * spi
        return (
            f"an insert of {items} items waits for samples: diff {self.diff:g} + {items} x {spi:g} = {after:g} is over "
            f"{spi:g} x min_size {self.min_size} + error_buffer {self.error_buffer:g} = {self.upper:g} "
            f"(inserted {self.inserted}, sampled {self.sampled}); the learner must sample {after - self.upper:g} more"
        )

    def why_sample_waits(self, items: int) -> str | None:
        """The arithmetic that holds a sample of `items` back, and who must act; None if it may go."""
        if self.may_sample(items):
            return None
        if self.inserted < self.min_size:
            return (
                f"a sample waits for the first items: inserted {self.inserted} of min_size {self.min_size}; "
                f"the actors must insert {self.min_size - self.inserted} more"
            )
        spi = self.samples_per_insert
        after = self.diff - items
        return (
            f"a sample of {items} items waits for inserts: diff {self.diff:g} - {items} = {after:g} is under "
            f"{spi:g} x min_size {self.min_size} - error_buffer {self.error_buffer:g} = {self.lower:g} "
            f"(inserted {self.inserted}, sampled {self.sampled}); "
            f"the actors must insert {math.ceil((self.lower - after) / spi)} more"
        )


def _problems(spi: float, min_size: int, buffer: float | None, max_insert: int, max_sample: int) -> list[str]:
    """Everything that is wrong with a limiter's settings, each with its arithmetic."""
    found = []
    if not (math.isfinite(spi) and spi > 0):
        found.append(f"samples_per_insert is {spi}; set a number over 0, or take an unlimited table")
    if min_size < 1:
        found.append(f"min_size is {min_size}; set 1 or more: nothing can be sampled from an empty table")
    if max_insert < 1 or max_sample < 1:
        found.append(f"max_insert is {max_insert} and max_sample {max_sample}; set both to 1 or more")
    if buffer is not None and (math.isnan(buffer) or buffer < 0):
        found.append(f"error_buffer is {buffer}; set a number of samples, 0 or more")
    if found or buffer is None or math.isinf(buffer):
        return found
    insert, err = max_insert * Fraction(spi), Fraction(buffer)
    need = least_error_buffer(spi, max_insert, max_sample)
    if err < insert:
        found.append(
            f"the table would deadlock before its first sample: error_buffer {buffer:g} is under "
            f"max_insert {max_insert} x samples_per_insert {spi:g} = {float(insert):g}; "
            f"set error_buffer to {need} or more, or send smaller unrolls"
        )
    if 2 * err < insert + max_sample:
        found.append(
            f"the table would deadlock: 2 x error_buffer {buffer:g} = {2 * buffer:g} is under max_insert {max_insert} "
            f"x samples_per_insert {spi:g} + max_sample {max_sample} = {float(insert + max_sample):g}; "
            f"set error_buffer to {need} or more, or use smaller unrolls or batches"
        )
    return found
