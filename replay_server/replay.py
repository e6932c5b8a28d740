"""The replay table: a ring, a sampler and a rate limiter. Pure, one thread; the service asks before it calls.

An insert: next_seq (duplicates need no room) -> may_insert -> insert. A sample: may_sample -> sample.
"""

from __future__ import annotations

import math
import os

import numpy as np
from numpy.typing import NDArray

from core.errors import ReplayError
from core.specs import Signature
from core.types import Array, Columns, UnrollHeader
from replay_server.definition import ReplayDefinition
from replay_server.layout import RingLayout, fit_ring
from replay_server.limiter import RateLimiter
from replay_server.reports import Reports, TableStats
from replay_server.ring import Ring
from replay_server.samplers import Sampler, UniformSampler
from replay_server.storage import Allocator, FileAllocator, MemoryAllocator
from replay_server.table import Table


class ReplayTable(Table):
    """Items are valid rows; their keys are positions in the ring, a sample is their windows."""

    def __init__(
        self,
        signature: Signature,
        layout: RingLayout,
        limiter: RateLimiter,
        *,
        allocator: Allocator | None = None,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
        max_lives: int = 16384,
    ) -> None:
        super().__init__(signature, max_lives)
        self.batch_size = batch_size or limiter.max_sample
        self.ring = Ring(signature, layout, allocator, max_lives)
        self.limiter = limiter
        self._sampler = sampler or UniformSampler()
        self._reports = Reports()

    @classmethod
    def from_definition(
        cls,
        definition: ReplayDefinition,
        *,
        capacity_bytes: int | None = None,
        evict: bool = True,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> ReplayTable:
        """The table that a learner asked for, on this server's terms. ConfigError says all that does not fit.

        samples_per_insert 0 leaves `min_size` as the only limit (in lag mode the learner counts updates itself).
        `data_dir` None keeps the ring in memory, else in files there.
        """
        signature, max_sample = definition.signature, definition.batch_size * definition.batches_per_round
        layout = fit_ring(
            signature,
            definition.capacity,
            before=definition.before,
            after=definition.after,
            min_size=definition.min_size,
            open_blocks=definition.writers,
            capacity_bytes=capacity_bytes,
            evict=evict,
        )
        limiter = RateLimiter(
            definition.samples_per_insert or 1.0,
            definition.min_size,
            (definition.error_buffer or None) if definition.samples_per_insert else math.inf,
            max_insert=signature.max_rows * signature.max_envs,
            max_sample=max_sample,
        )
        allocator = FileAllocator(data_dir) if data_dir else MemoryAllocator()
        return cls(signature, layout, limiter, allocator=allocator, batch_size=definition.batch_size)

    @property
    def inserted(self) -> int:
        """Items that ever came in."""
        return self.limiter.inserted

    @property
    def sampled(self) -> int:
        """Items that ever were handed out."""
        return self.limiter.sampled

    def check_draw(self, batches: int) -> int:
        """How many items so many batches are. ReplayError when that is none, or more than one draw may have."""
        most = self.limiter.max_sample // self.batch_size
        if not 1 <= batches <= most:
            raise ReplayError(f"a draw of {batches} batches of {self.batch_size} items: ask for 1 to {most}")
        return batches * self.batch_size

    def may_insert(self, env_steps: int) -> bool:
        """Whether an unroll of so many valid rows may go in now. Always, while there is nothing to sample."""
        return self.limiter.may_insert(env_steps) or self.ring.items == 0

    def may_sample(self, items: int) -> bool:
        """Whether a batch of `items` may be drawn now."""
        return self.limiter.may_sample(items) and self.ring.items > 0

    def why_insert_waits(self, env_steps: int) -> str | None:
        """The arithmetic that holds an insert back; None if it may go."""
        return None if self.may_insert(env_steps) else self.limiter.why_insert_waits(env_steps)

    def why_sample_waits(self, items: int) -> str | None:
        """The arithmetic that holds a sample back; None if it may go."""
        if self.may_sample(items):
            return None
        return self.limiter.why_sample_waits(items) or "a sample waits for the first items: the table holds none"

    def why_no_room(self, lives: int) -> str | None:
        """Why `lives` actors at once are too many for the capacity, with the arithmetic; None if they fit."""
        return self.ring.layout.problem(lives, self.signature.max_rows, self.signature.max_envs)

    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns) -> bool:
        """Append an unroll to its life's block; False for a known duplicate.

        SchemaError or ItemRejectedError when it cannot be taken, and nothing has changed.
        """
        slot = header.slot
        if not self._is_new(slot, incarnation, seq):
            return False
        rows, envs = self._shapes.size(columns)
        self.limiter.record_insert(self.ring.insert(slot, incarnation, seq, columns, rows, envs))
        self._reports.add(header)
        forgotten = self._applied(incarnation, seq, header)
        if forgotten is not None:
            self.ring.end_life(*forgotten)
        return True

    def sample(
        self, n: int, rng: np.random.Generator, out: Columns | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Array]]:
        """Keys [n] and windows, time-major and contiguous: [before + after, n, ...], one row more with an extra row.

        Drawn from `rng` alone, so the same table and generator give the same batch. `out` may hold arrays to fill.
        """
        if n > self.limiter.max_sample:
            raise ReplayError(f"a sample of {n} items, the table's limit is {self.limiter.max_sample}: ask for fewer")
        keys = self._sampler.keys(self.ring, n, rng)
        self.limiter.record_sample(n)
        return keys, self.ring.gather(keys, out)

    def drain_headers(self) -> list[UnrollHeader]:
        """Headers of the unrolls that were applied since the last call, oldest first (see `Reports`)."""
        return self._reports.drain()

    def end_life(self, slot: int, incarnation: int) -> None:
        """A life has ended: its block takes no more rows, its counter is forgotten."""
        super().end_life(slot, incarnation)
        self.ring.end_life(slot, incarnation)

    def stats(self) -> TableStats:
        """Counters; items are valid rows, the capacity is in rows."""
        return TableStats(
            items=self.ring.items,
            capacity=self.ring.layout.cells,
            held_bytes=self.ring.held_bytes,
            inserted=self.limiter.inserted,
            sampled=self.limiter.sampled,
            evicted=self.ring.evicted,
            duplicates=self._duplicates,
            lives=len(self._dedupe),
        )
