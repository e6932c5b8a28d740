"""A coordinator on a clock that the test moves, with the test in the place of actors and learner."""

from __future__ import annotations

import asyncio
import queue

import numpy as np

from core.clock import FakeClock
from core.types import UnrollHeader
from learner.coordinator import Coordinator
from learner.rounds import Rounds, Seat
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue, QueueBatch, RoundQueue
from tests.unit.counting import CountingLife, signature

T, B = 2, 2
GRACE_S, START_S = 10.0, 60.0


class Run:
    """A coordinator and the test in the place of actors and learner."""

    def __init__(self, lag: int | None, expected: int = 2, version: int = 0, items: int = 1, **more: int) -> None:
        self.clock = FakeClock()
        self.table: RoundQueue | FifoQueue = (
            FifoQueue(signature(T, B), 4) if lag is None else RoundQueue(signature(T, B), lag)
        )
        hosted: Hosted[RoundQueue] | Hosted[FifoQueue] = Hosted("experience", self.table, self.clock)  # type: ignore[assignment]
        self.rounds = Rounds(lag, GRACE_S, expected, version)
        self.coordinator = Coordinator(
            self.rounds,
            hosted,
            self.clock,
            start_timeout_s=START_S,
            items_per_batch=items,
            max_staleness=more.get("max_staleness"),
        )
        self.publisher = self.coordinator.publisher
        self._hosted = hosted
        self._lives: dict[int, CountingLife] = {}

    def join(self, incarnation: int) -> Seat:
        """An actor joins and opens its weights stream."""
        seat = self.coordinator.join(incarnation, "host", 1000 + incarnation)
        self.coordinator.lease(seat.slot, incarnation)
        self._lives[incarnation] = CountingLife(seat.slot, incarnation, B, np.random.default_rng(1))
        return seat

    def publish(self, version: int) -> None:
        """The learner publishes."""
        self.coordinator.publish(version, b"weights")

    def deliver(self, incarnation: int, round_: int, version: int = 0) -> None:
        """The actor's unroll of a round arrives."""
        life = self._lives[incarnation]
        columns = life.unroll(T)
        header = UnrollHeader(life.slot, round_, version, T * B)

        async def insert() -> None:
            token = self._hosted.open_life(life.slot, incarnation)
            await self._hosted.insert(token, incarnation, life.seq, header, columns, (T, B))

        asyncio.run(insert())

    def batch(self) -> list[tuple[int, int]] | None:
        """(slot, round) of each unroll of the next batch; None where none is ready."""
        try:
            batch = self.coordinator.batches.get_nowait()
        except queue.Empty:
            return None
        assert isinstance(batch, QueueBatch)
        return [(header.slot, header.round) for header in batch.headers]
