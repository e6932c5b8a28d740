"""Seats, rounds and the learner's own queue or the news of a replay server, together on the loop's thread.

Joins, lost actors, arrivals and publications all change the same few facts (which round waits for whom), so they meet
here and nowhere else; the rules are learner/rounds.py's, which is pure.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from core.clock import Clock
from core.errors import ConfigError
from core.types import UnrollHeader
from learner.publisher import Publisher
from learner.rounds import Rounds, Seat
from learner.seats import ActorProcess
from learner.status import Seated
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue, QueueBatch, RoundQueue

logger = logging.getLogger(__name__)
JOINING_S = 10.0
"""Who has a seat and opens no weights stream for so long is lost; it takes an actor a moment."""
MOST_SEATS = 10_000
MOST_HOST_CHARACTERS = 255


class CompleteRound(NamedTuple):
    """A round whose unrolls a replay server has staged: theirs are the headers, in the order of slots."""

    round: int
    headers: tuple[UnrollHeader, ...]


class Coordinator:
    """Connects rounds, versions and table.

    `batches` is where a source takes what a queue has ready, `complete` where it takes rounds that a replay server has
    staged; `on_complete` tells it so. `why_refused(actors)` says why the table cannot take so many. With a fixed lag
    nobody acts before `started`: all expected actors have joined, or `start_timeout_s` has passed since the first did.
    """

    def __init__(
        self,
        rounds: Rounds,
        hosted: Hosted[RoundQueue] | Hosted[FifoQueue] | None,
        clock: Clock,
        *,
        start_timeout_s: float = 60.0,
        items_per_batch: int = 1,
        max_staleness: int | None = None,
    ) -> None:
        self.rounds, self.publisher = rounds, Publisher(rounds.versions_wanted)
        self.hosted, self._clock = hosted, clock
        self.batches: queue.SimpleQueue[QueueBatch | None] = queue.SimpleQueue()
        self.complete: queue.SimpleQueue[CompleteRound | None] = queue.SimpleQueue()
        self.on_complete: Callable[[], None] = lambda: None
        self.why_refused: Callable[[int], str | None] = lambda actors: None
        self.actors: dict[int, ActorProcess] = {}
        self.joined = 0
        self._lives = Counter[int]()  # by slot
        self.started = asyncio.Event()
        self._table_ready = asyncio.Event()
        self._without_table: dict[str, float] = {}  # who waits for a replay server's table -> since when
        if hosted is not None:
            self._table_ready.set()
        else:
            self._without_table["the learner"] = clock.now_s()
        self._start_timeout_s, self._start_by_s = start_timeout_s, math.inf
        self._items_per_batch, self._max_staleness = items_per_batch, max_staleness
        self._opened = rounds.version
        self._taken = -1
        self._demand, self._wanted_since_s = 0, math.inf
        self._staged: dict[int, dict[int, UnrollHeader]] = {}  # round -> slot -> header
        self._turn_since_s = math.inf
        if hosted is not None:
            hosted.on_insert = self._inserted

    # -------------------------------------------------------------------------------------------- actors

    async def until_table(self, who: str) -> None:
        """Wait until there is a table to insert into: nobody joins before."""
        self._without_table.setdefault(who, self._clock.now_s())
        try:
            await self._table_ready.wait()
        finally:
            self._without_table.pop(who, None)

    def table_made(self) -> None:
        """The replay server has the table."""
        self._table_ready.set()
        self._without_table.clear()

    def seated(self) -> tuple[Seated, ...]:
        """The actors by slot, and what of late came from them."""
        return tuple(actor.seated(self._clock.now_s()) for _, actor in sorted(self.actors.items()))

    def without_table(self) -> list[tuple[str, float]]:
        """Who waits for a replay server to be reached and to make the table, and for how long."""
        return [(who, self._clock.now_s() - since_s) for who, since_s in self._without_table.items()]

    def join(self, incarnation: int, host: str, pid: int, wanted_slot: int | None = None) -> Seat:
        """Give a joining process its slot and first round.

        Raises ConfigError where the table has no room for it, or there are too many seats.
        """
        host = "".join(c if c.isprintable() else "?" for c in host[:MOST_HOST_CHARACTERS])
        actors = self.rounds.actors_with(incarnation, self._clock.now_s(), wanted_slot)
        too_many = (
            f"it would be the actor {actors:,}; a learner has at most {MOST_SEATS:,}" if actors > MOST_SEATS else None
        )
        ConfigError.raise_if(filter(None, [too_many, self.why_refused(actors)]))
        seat = self.rounds.join(incarnation, self._clock.now_s(), wanted_slot)
        self._lives[seat.slot] += 1
        restarts = self._lives[seat.slot] - 1
        self.actors[seat.slot] = ActorProcess(seat.slot, incarnation, host, pid, self._clock.now_s(), restarts=restarts)
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
            self.rounds.acts(slot, incarnation)
            actor.state = "acting"
            actor.lease += 1
            if actor.lease > 1:
                self.publisher.wake()  # the older stream of this actor ends
            return actor.lease
        return 0

    def holds(self, slot: int, incarnation: int, lease: int) -> bool:
        """Whether this is the actor's newest stream, and the slot still its own."""
        actor = self.actors.get(slot)
        return actor is not None and (actor.incarnation, actor.lease) == (incarnation, lease)

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
            if actor.state == "joining" and self._clock.now_s() > actor.joined_s + JOINING_S:
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
        self._turn_since_s = self._clock.now_s()
        self._open_rounds()
        if self.hosted is not None:
            self.hosted.changed()
        self._advance()

    def want_batch(self) -> None:
        """Async queue: the source has room for one batch more."""
        if not self._demand:
            self._wanted_since_s = self._clock.now_s()
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
        self.complete.put(None)
        self.on_complete()

    def note(self, headers: Sequence[UnrollHeader]) -> None:
        """A replay server has these: a replacement goes on after them. With a fixed lag they may complete a round."""
        for header in headers:
            self._seen(header)
            if self.rounds.delivered(header.slot, header.round) and self.rounds.lag is not None:
                self._staged.setdefault(header.round, {})[header.slot] = header
        self._advance()

    def why_it_waits(self) -> tuple[str, float, str] | None:
        """What the learner waits for, for how long, and who must act; None where it does not."""
        current, waited_s = self.publisher.version, self._clock.now_s() - self._turn_since_s
        if self.rounds.lag is None:
            return self._why_no_batch()
        if current <= self._taken:
            return None
        if not self.rounds.started:
            begins = f"{len(self.actors)} of {self.rounds.expected} actors have joined"
            if math.isfinite(self._start_by_s):
                begins += f"; in {max(0.0, self._start_by_s - self._clock.now_s()):.0f} s it begins with those"
            return "actors", waited_s, begins
        status = self.rounds.status()
        if not status.seated:
            return "actors", waited_s, "every actor has left; start one with `shoal actor --learner ADDRESS`"
        owed = status.owed.get(current)
        if not owed:
            return None
        reason = f"round {current} waits for the unrolls of slots {', '.join(map(str, owed))}"
        lost = {slot: until_s - self._clock.now_s() for slot, until_s in status.lost.items() if slot in owed}
        if lost:
            left = ", ".join(f"{slot} ({max(0.0, left_s):.0f} s)" for slot, left_s in lost.items())
            reason += f"; lost, and waited for until their grace is over: {left}"
        return "a round", waited_s, reason

    def _why_no_batch(self) -> tuple[str, float, str] | None:
        if self.hosted is None or not self._demand:
            return None
        there, wanted = self.hosted.table.stats().items, self._items_per_batch
        reason = f"the queue has {there} of the {wanted} unrolls of a batch; actors that deliver: {len(self.actors)}"
        return "items to sample", self._clock.now_s() - self._wanted_since_s, reason

    def _seen(self, header: UnrollHeader) -> None:
        actor = self.actors.get(header.slot)
        if actor is not None:
            actor.seen(header, self._clock.now_s())

    def _inserted(self, header: UnrollHeader) -> None:
        self._seen(header)
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
        current = self.publisher.version
        if current < 0:
            return
        if self.hosted is None:
            if self.rounds.lag is not None and current > self._taken and self.rounds.complete(current):
                self._taken = current
                staged = self._staged.pop(current, {})
                self.complete.put(CompleteRound(current, tuple(staged[slot] for slot in sorted(staged))))
                self.on_complete()
            return
        table = self.hosted.table
        if isinstance(table, RoundQueue):
            if current > self._taken and self.rounds.complete(current) and table.ready(current):
                self._taken = current
                self.batches.put(table.take(current))
            return
        while self._demand > 0 and table.may_take(self._items_per_batch):
            batch = table.take(self._items_per_batch, self.publisher.version, self._max_staleness)
            if batch is not None:
                self._demand, self._wanted_since_s = self._demand - 1, self._clock.now_s()
                self.batches.put(batch)
            self.hosted.changed()
