"""Seats, rounds and the learner's own queue, together on the loop's thread.

Joins, lost actors, arrivals and publications all change the same few facts (which round waits for whom), so they meet
here and nowhere else; the rules are learner/rounds.py's, which is pure.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
from collections.abc import Sequence
from dataclasses import dataclass

from core.clock import Clock
from core.types import UnrollHeader
from learner.publisher import Publisher
from learner.rounds import Rounds, Seat
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue, QueueBatch, RoundQueue

logger = logging.getLogger(__name__)


@dataclass
class ActorProcess:
    """Who sits on a slot: for people, and to tell a slot's lives apart."""

    slot: int
    incarnation: int
    host: str
    pid: int
    joined_s: float
    state: str = "joining"
    lease: int = 0


class Coordinator:
    """Connects rounds, publisher and queue. `batches` is where a source takes what is ready.

    With a fixed lag nobody acts before `started`: all expected actors have joined, or `start_timeout_s` has passed
    since the first did.
    """

    def __init__(
        self,
        rounds: Rounds,
        publisher: Publisher,
        hosted: Hosted[RoundQueue] | Hosted[FifoQueue] | None,
        clock: Clock,
        *,
        start_timeout_s: float = 60.0,
        items_per_batch: int = 1,
        max_staleness: int | None = None,
    ) -> None:
        self.rounds, self.publisher, self.hosted, self._clock = rounds, publisher, hosted, clock
        self.batches: queue.SimpleQueue[QueueBatch | None] = queue.SimpleQueue()
        self.actors: dict[int, ActorProcess] = {}
        self.joined = 0
        self.started = asyncio.Event()
        self.table_ready = asyncio.Event()  # nobody joins before there is a table to insert into
        if hosted is not None:
            self.table_ready.set()
        self._start_timeout_s, self._start_by_s = start_timeout_s, math.inf
        self._items_per_batch, self._max_staleness = items_per_batch, max_staleness
        self._opened = rounds.version
        self._taken = -1
        self._demand = 0
        if hosted is not None:
            hosted.on_insert = self._inserted

    # -------------------------------------------------------------------------------------------- actors

    def join(self, incarnation: int, host: str, pid: int, wanted_slot: int | None = None) -> Seat:
        """Give a joining process its slot and first round."""
        seat = self.rounds.join(incarnation, self._clock.now_s(), wanted_slot)
        self.actors[seat.slot] = ActorProcess(seat.slot, incarnation, host, pid, self._clock.now_s())
        self.joined += 1
        if self.joined == 1:
            self._start_by_s = self._clock.now_s() + self._start_timeout_s
        logger.info("slot %d: joined from %s (pid %d), first round %d", seat.slot, host, pid, seat.first_round)
        self._open_rounds()
        self._advance()
        return seat

    def lease(self, slot: int, incarnation: int) -> int:
        """A weights stream of the actor stands; returns the number that `lost` wants when this one breaks."""
        actor = self.actors.get(slot)
        if actor is not None and actor.incarnation == incarnation:
            if actor.state == "lost":
                self.rounds.join(incarnation, self._clock.now_s(), wanted_slot=slot)
            actor.state = "acting"
            actor.lease += 1
            return actor.lease
        return 0

    def lost(self, slot: int, incarnation: int, lease: int | None = None) -> None:
        """The actor's weights stream broke; its slot is kept for the grace time. An older `lease` only ends late."""
        actor = self.actors.get(slot)
        if actor is not None and actor.incarnation == incarnation and lease in (None, actor.lease):
            actor.state = "lost"
            if self.publisher.finished:
                return
            self.rounds.lost(slot, incarnation, self._clock.now_s())
            logger.warning("slot %d: lost; its rounds wait for a replacement", slot)

    def tick(self) -> None:
        """Let go of the slots whose grace is over; called a few times a second."""
        for actor in self.actors.values():
            if actor.state == "joining" and self._clock.now_s() > actor.joined_s + self._start_timeout_s:
                self.lost(actor.slot, actor.incarnation)  # it died before its weights stream stood
        for round_, slot in self.rounds.expire(self._clock.now_s()):
            logger.warning("round %d goes on without slot %d", round_, slot)
            if self.hosted is not None and isinstance(self.hosted.table, RoundQueue):
                self.hosted.table.drop(round_, slot)
        if self._clock.now_s() > self._start_by_s and not self.started.is_set() and self.actors:
            logger.warning("the run starts with %d of %d actors", len(self.actors), self.rounds.expected)
            self.rounds.start()
        for slot in [slot for slot in self.actors if not self.rounds.seated(slot)]:
            del self.actors[slot]
        self._open_rounds()
        self._advance()

    # -------------------------------------------------------------------------------------------- rounds

    def publish(self, version: int, encoded: bytes) -> None:
        """Publish a version and, in the same step, freeze the cohort of round version + lag."""
        self.publisher.publish(version, encoded)
        if version > self.rounds.version:  # the first one is what the rounds begin with, 0 or a checkpoint's
            self.rounds.published()
        self._open_rounds()
        if self.hosted is not None:
            self.hosted.changed()
        self._advance()

    def want_batch(self) -> None:
        """Async queue: the source has room for one batch more."""
        self._demand += 1
        self._advance()

    def finish(self, reason: str) -> None:
        """The run is over: tell the actors, those too that wait for its start."""
        self.publisher.finish(reason)
        self.started.set()

    def close(self) -> None:
        """Wake the source; nothing more will come."""
        if self.hosted is not None:
            self.hosted.close()
        self.batches.put(None)

    def note(self, headers: Sequence[UnrollHeader]) -> None:
        """A replay server has these: a replacement goes on after them."""
        for header in headers:
            self.rounds.delivered(header.slot, header.round)

    def _inserted(self, header: UnrollHeader) -> None:
        self.rounds.delivered(header.slot, header.round)
        self._advance()

    def _open_rounds(self) -> None:
        if self.rounds.started or self.rounds.lag is None:
            self.started.set()
        if self.hosted is None or not isinstance(self.hosted.table, RoundQueue):
            return
        while (cohort := self.rounds.cohort(self._opened)) is not None:
            self.hosted.table.open_round(self._opened, cohort)
            self._opened += 1

    def _advance(self) -> None:
        """Hand out what is ready: in lag mode the current round, in async mode one batch for each that is wanted."""
        if self.hosted is None or self.publisher.version < 0:
            return
        table = self.hosted.table
        if isinstance(table, RoundQueue):
            current = self.publisher.version
            if current > self._taken and self.rounds.complete(current) and table.ready(current):
                self._taken = current
                self.batches.put(table.take(current))
            return
        while self._demand > 0 and table.may_take(self._items_per_batch):
            batch = table.take(self._items_per_batch, self.publisher.version, self._max_staleness)
            if batch is not None:
                self._demand -= 1
                self.batches.put(batch)
            self.hosted.changed()
