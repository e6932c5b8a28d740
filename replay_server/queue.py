"""Queues: tables whose items are unrolls, each used once. Pure, one thread.

`RoundQueue` is for a fixed policy lag: batches are cohorts, arrivals are written where they will be read.
`FifoQueue` is for async pace: bounded, first come first served, joined when taken.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from core.errors import ItemRejectedError, ReplayError, SeatLostError
from core.specs import Signature
from core.types import Array, Columns, UnrollHeader
from replay_server.reports import TableStats
from replay_server.table import Size, Table


class QueueBatch(NamedTuple):
    """Unrolls side by side: columns [rows + extra_rows, N x B, ...], and the N headers in the same order.

    `dropped` are the headers of those that were too stale since the batch before.
    """

    columns: dict[str, Array]
    headers: tuple[UnrollHeader, ...]
    dropped: tuple[UnrollHeader, ...] = ()


@dataclass
class _Round:
    """A round that is open: its columns, the place of each slot in them, and what has come."""

    columns: dict[str, Array]
    place: dict[int, int]
    headers: dict[int, UnrollHeader] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)


class RoundQueue(Table):
    """lag + 1 batch buffers, preallocated; each unroll is written once, into its slot's place in its round's buffer.

    The buffer of round k is used again for round k + lag + 1. That is safe: round k + lag + 1 opens when version k + 1
    is published, and the learner publishes it after its last use of batch k.

    Every unroll must have the signature's `max_rows` x `max_envs`; with `pad` (whole episodes) fewer rows are filled up
    with zeros, so with valid = 0.
    """

    def __init__(self, signature: Signature, lag: int, *, pad: bool = False, max_lives: int = 16384) -> None:
        self.lag = lag
        super().__init__(signature, max_lives)
        self._pad = pad
        self._buffers: list[dict[str, Array]] = [{} for _ in range(lag + 1)]
        self._rounds: dict[int, _Round] = {}
        self._next_round = 0
        self._inserted = self._taken = self._dropped = 0

    def open_round(self, round: int, slots: tuple[int, ...]) -> None:
        """Take unrolls of `slots` for `round` from now on. In order; round - lag - 1 must be taken."""
        if round - self.lag - 1 in self._rounds or round < self._next_round:
            raise ReplayError(
                f"round {round} cannot open: rounds {sorted(self._rounds)} are open, the next to open is "
                f"{self._next_round}, and {self.lag + 1} buffers serve lag {self.lag}"
            )
        order = sorted(slots)
        columns = self._buffer(round % (self.lag + 1), len(order))
        self._rounds[round] = _Round(columns, {slot: i for i, slot in enumerate(order)})
        self._next_round = round + 1

    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Write an unroll to its place; False for a known duplicate.

        SeatLostError: it has no place. ItemRejectedError: its size is wrong.
        """
        slot = header.slot
        if not self._is_new(slot, incarnation, seq):
            return False
        current = self._wanted(slot, header.round)
        (rows, envs), signature = size, self.signature
        if envs != signature.max_envs or (rows != signature.max_rows and not self._pad):
            raise ItemRejectedError(
                f"slot {slot}, round {header.round}: {rows} rows of {envs} environments came, every unroll of this "
                f"table has {'at most ' if self._pad else ''}{signature.max_rows} rows of {signature.max_envs}"
            )
        if slot in current.headers:  # the life before this one had delivered it: the same unroll
            self._dedupe.record(slot, incarnation, seq)
            self._duplicates += 1
            return False
        for name, source in columns.items():
            _put(current.columns[name], current.place[slot] * envs, source)
        current.headers[slot] = header
        self._inserted += 1
        self._record(incarnation, seq, header)
        return True

    def drop(self, round: int, slot: int) -> None:
        """`slot` leaves the cohort of an open round: the batch gets narrower. What it delivered goes unused."""
        current = self._wanted(slot, round)
        current.dropped.add(slot)
        if current.headers.pop(slot, None) is not None:
            self._dropped += 1

    def waiting(self, round: int) -> tuple[int, ...]:
        """The slots whose unrolls an open round still waits for."""
        current = self._rounds.get(round)
        if current is None:
            return ()
        return tuple(s for s in current.place if s not in current.headers and s not in current.dropped)

    def ready(self, round: int) -> bool:
        """Whether the round is open and everything is there (at once for an empty cohort)."""
        current = self._rounds.get(round)
        return current is not None and len(current.headers) + len(current.dropped) == len(current.place)

    def take(self, round: int) -> QueueBatch:
        """The batch of a round that is `ready`: the buffer itself, lent until round + lag + 1 opens.

        Only when slots were dropped the rest is copied together.
        """
        if not self.ready(round):
            raise ReplayError(f"round {round} cannot be taken: {self._why_not(round)}")
        current = self._rounds.pop(round)
        columns = current.columns
        if current.dropped:
            stays = np.repeat([slot not in current.dropped for slot in current.place], self.signature.max_envs)
            columns = {name: np.compress(stays, array, axis=1) for name, array in columns.items()}
        self._taken += len(current.headers)
        return QueueBatch(columns, tuple(current.headers[slot] for slot in current.place if slot in current.headers))

    def stats(self) -> TableStats:
        """Counters; items and capacity are unrolls of the open rounds."""
        return TableStats(
            items=sum(len(r.headers) for r in self._rounds.values()),
            capacity=sum(len(r.place) for r in self._rounds.values()),
            held_bytes=sum(a.nbytes for buffer in self._buffers for a in buffer.values()),
            inserted=self._inserted,
            sampled=self._taken,
            dropped=self._dropped,
            duplicates=self._duplicates,
            lives=len(self._dedupe),
        )

    def _buffer(self, index: int, slots: int) -> dict[str, Array]:
        """Contiguous columns for `slots` unrolls, cut from flat memory that grows when a cohort is the largest yet."""
        flat, envs, columns = self._buffers[index], slots * self.signature.max_envs, {}
        for name, spec in self.signature.columns.items():
            full, dtype = (self.signature.max_rows + spec.extra_rows, envs, *spec.array.shape), spec.array.dtype
            size = math.prod(full)
            if name not in flat or flat[name].size < size:
                flat[name] = np.empty(size, dtype)
            columns[name] = flat[name][:size].reshape(full)  # contiguous, however many slots
        return columns

    def _wanted(self, slot: int, round: int) -> _Round:
        """The open round that waits, or waited, for `slot`."""
        current = self._rounds.get(round)
        if current is None or slot not in current.place or slot in current.dropped:
            raise SeatLostError(f"slot {slot} has no place in round {round}: {self._why_not(round)}; join again")
        return current

    def _why_not(self, round: int) -> str:
        current = self._rounds.get(round)
        if current is not None:
            return (
                f"its slots are {sorted(current.place)}, {sorted(current.headers)} have delivered, "
                f"{sorted(current.dropped)} were dropped"
            )
        state = "is over" if round < self._next_round else "is not open yet"
        return f"it {state}, rounds {sorted(self._rounds)} are open"


class FifoQueue(Table):
    """At most `capacity` unrolls, in order of arrival. It keeps the arrays it is given (views of a message).

    Unrolls have up to `max_envs` environments and, without `pad`, exactly `max_rows` rows.
    """

    def __init__(self, signature: Signature, capacity: int, *, pad: bool = False, max_lives: int = 16384) -> None:
        self.capacity = capacity
        super().__init__(signature, max_lives)
        self._pad = pad
        self._items: deque[tuple[UnrollHeader, Columns]] = deque()
        self._inserted = self._taken = self._held_bytes = 0
        self.dropped = 0
        self._untold: list[UnrollHeader] = []

    def may_insert(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> bool:
        """Whether there is room for one more unroll, however many env_steps it has."""
        return len(self._items) < self.capacity

    def why_insert_waits(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> str | None:
        """The arithmetic of a full queue; None if there is room."""
        if len(self._items) < self.capacity:
            return None
        return f"the queue holds {len(self._items)} of {self.capacity} unrolls: the learner must take some"

    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Append an unroll; False for a known duplicate. ItemRejectedError when full or of a wrong size."""
        if not self._is_new(header.slot, incarnation, seq):
            return False
        if len(self._items) >= self.capacity:
            raise ItemRejectedError(
                f"the queue holds {len(self._items)} of {self.capacity} unrolls: the learner must take some"
            )
        if size[0] != self.signature.max_rows and not self._pad:
            raise ItemRejectedError(f"slot {header.slot}: {size[0]} rows came, unrolls have {self.signature.max_rows}")
        self._items.append((header, columns))
        self._held_bytes += _nbytes(columns)
        self._inserted += 1
        self._record(incarnation, seq, header)
        return True

    def may_take(self, n: int, newest_version: int = 0, max_staleness: int | None = None) -> bool:
        """Whether `n` unrolls are there. With `max_staleness`, the staler are dropped first, and counted."""
        if max_staleness is not None:
            kept = deque(item for item in self._items if newest_version - item[0].version <= max_staleness)
            self.dropped += len(self._items) - len(kept)
            if len(kept) < len(self._items):
                stale = (header for header, _ in self._items if newest_version - header.version > max_staleness)
                self._untold.extend(stale)
                self._items = kept
                self._held_bytes = sum(_nbytes(columns) for _, columns in kept)
        return len(self._items) >= n

    def take(self, n: int, newest_version: int = 0, max_staleness: int | None = None) -> QueueBatch | None:
        """The `n` oldest unrolls that are not too stale, joined along B into new arrays; None if there are not so many.

        Unrolls that are too stale for `newest_version` are dropped first, and counted.
        """
        if not self.may_take(n, newest_version, max_staleness):
            return None
        taken = [self._items.popleft() for _ in range(n)]
        self._held_bytes -= sum(_nbytes(columns) for _, columns in taken)
        self._taken += n
        envs = sum(next(iter(columns.values())).shape[1] for _, columns in taken)
        joined = {}
        for name, spec in self.signature.columns.items():
            full = (self.signature.max_rows + spec.extra_rows, envs, *spec.array.shape)
            target = joined[name] = np.empty(full, spec.array.dtype)
            at = 0
            for _, columns in taken:
                _put(target, at, columns[name])
                at += columns[name].shape[1]
        dropped, self._untold = tuple(self._untold), []
        return QueueBatch(joined, tuple(header for header, _ in taken), dropped)

    def stats(self) -> TableStats:
        """Counters; items are unrolls."""
        return TableStats(
            items=len(self._items),
            capacity=self.capacity,
            held_bytes=self._held_bytes,
            inserted=self._inserted,
            sampled=self._taken,
            dropped=self.dropped,
            duplicates=self._duplicates,
            lives=len(self._dedupe),
        )


def _put(target: Array, at: int, source: Array) -> None:
    """Write an unroll's column [rows, B, ...] into a batch's [T, N x B, ...] from environment `at` on, zeros below."""
    place = target[:, at : at + source.shape[1]]
    place[: len(source)] = source
    place[len(source) :] = 0


def _nbytes(columns: Columns) -> int:
    return sum(array.nbytes for array in columns.values())
