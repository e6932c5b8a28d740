"""What a writer and a learner do while they are measured, as fast as they can."""

from __future__ import annotations

import contextlib
import time
from collections import deque

import numpy as np

from benchmarks.replay.measures import Figures, rates
from benchmarks.replay.shapes import Columns, nbytes
from core.draws import Reply
from core.errors import DeadlineError, ReplayError
from core.sampling import SampleStream
from core.stream import InsertStream
from core.types import UnrollHeader

RECEIVE_TIMEOUT_S, FLUSH_TIMEOUT_S = 60.0, 120.0
INSERT_WINDOW, SAMPLE_WINDOW = 16, 8


class Inserts:
    """The same unroll again and again.

    Acks come in order, so an unroll is acknowledged by the time that the one `window` after it may be sent; while the
    writer waits for acks, which is always at full speed, that is when its ack came.
    """

    def __init__(self, stream: InsertStream, columns: Columns, window: int, slot: int = 0) -> None:
        self._stream, self._columns, self._window = stream, columns, window
        self._header = UnrollHeader(slot, 0, 0, columns["reward"].size)
        self._sent_s: deque[float] = deque()
        self.waited_s: list[float] = []
        self.sent = 0

    def one(self, timeout_s: float | None = None) -> None:
        """Waits while the window is full. Raises DeadlineError."""
        self._stream.insert(self._header, self._columns, timeout_s)
        now_s = time.perf_counter()
        self._sent_s.append(now_s)
        self.sent += 1
        if len(self._sent_s) > self._window:
            self.waited_s.append(now_s - self._sent_s.popleft())

    def fill(self, steps: int) -> None:
        """Not measured."""
        for _ in range(-(-steps // self._columns["reward"].size)):
            self.one()
        self._stream.flush(FLUSH_TIMEOUT_S)
        self._sent_s.clear()
        self.waited_s.clear()
        self.sent = 0

    def run(self, seconds: float) -> float:
        """The seconds until all was acknowledged."""
        start_s = time.perf_counter()
        while time.perf_counter() - start_s < seconds:
            self.one()
        self._stream.flush(FLUSH_TIMEOUT_S)
        return time.perf_counter() - start_s

    def until(self, seconds: float) -> None:
        """For so long, whether the table takes anything or not."""
        end_s = time.perf_counter() + seconds
        with contextlib.suppress(DeadlineError):
            while (left_s := end_s - time.perf_counter()) > 0:
                self.one(left_s)

    def figures(self, took_s: float) -> Figures:
        """Steps/s."""
        return rates(self.sent * self._columns["reward"].size, self.sent * nbytes(self._columns), took_s, self.waited_s)


class Samples:
    """Batches of one size, a few requested ahead; `prioritised`: each request brings the last batch's priorities."""

    def __init__(self, stream: SampleStream, batch: int, prioritised: bool = False) -> None:
        self._stream, self._batch, self._prioritised = stream, batch, prioritised
        self._asked_s: dict[int, float] = {}
        self._rng = np.random.default_rng(0)

    def ask(self, last: Reply | None = None) -> None:
        """Request a batch."""
        priorities = None
        if self._prioritised and last is not None and last.keys is not None:
            priorities = (last.keys, self._rng.random(last.keys.size, np.float32) + np.float32(0.1))
        asked_s = time.perf_counter()
        self._asked_s[self._stream.request(1, self._batch, priorities=priorities)] = asked_s

    def take(self) -> tuple[Reply, float]:
        """The next batch, and how long it took."""
        while True:
            reply = self._stream.receive(RECEIVE_TIMEOUT_S)
            if reply.keys is not None:
                return reply, time.perf_counter() - self._asked_s.pop(reply.draw)

    def start(self, window: int = SAMPLE_WINDOW) -> None:
        """Request `window` batches and take as many, so that what happens once has happened."""
        for _ in range(window):
            self.ask()
        for _ in range(window):
            self.ask(self.take()[0])

    def check(self, window: int) -> None:
        """Take one more batch and look at it. Raises ReplayError where it is not what was to be measured."""
        self.ask()
        replies = [self.take()[0] for _ in range(len(self._asked_s))]
        columns, probability = replies[-1].columns or {}, replies[-1].probability
        if "obs" not in columns or columns["obs"].shape[:2] != (window, self._batch):
            raise ReplayError(f"{window} rows of {self._batch} items were to come, not {columns.keys()}")
        if self._prioritised and (probability is None or np.ptp(probability) == 0):
            raise ReplayError("items are drawn as if no priority had been set")

    def run(self, seconds: float) -> Figures:
        """Items/s after `start`. `inserted_per_s` is what the table took meanwhile."""
        start_s, took_s, items, received, waited_s = time.perf_counter(), 0.0, 0, 0, []
        first: Reply | None = None
        while took_s < seconds:
            reply, waited = self.take()
            self.ask(reply)
            first = first or reply
            items += self._batch
            received += nbytes(reply.columns or {})
            waited_s.append(waited)
            took_s = time.perf_counter() - start_s
        inserted = reply.inserted_items - first.inserted_items if first else 0
        return rates(items, received, took_s, waited_s) | {"inserted_per_s": inserted / took_s}
