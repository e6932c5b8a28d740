"""Batches of a replay table: requested ahead in async pace, or round by round behind a fixed lag.

Called by the source's thread; `set_priorities` by the training thread, `wake` by the loop's. The connection is
core/sampling.py's, which outlives a restart of the server: what was not answered is requested again.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from core.draws import Reply
from core.errors import DeadlineError, TableClosedError
from core.types import Array, Columns, Replay, UnrollHeader
from learner.coordinator import CompleteRound
from learner.pace import Drawing, Part, UpdateCount, join, latest, split
from learner.source import Delivery

AHEAD = 2
"""Rounds that are requested before they are needed, in async pace."""
_STUCK = {
    "unrolls of slots": "An unroll went with both its actor and the replay server",
    "the disk": "Its manifests cannot be written: the disk is full, gone or too slow, as the replay server's log says",
    "a sample": "The table lost the items that were to be drawn from",
}
"""Words of a reason why a staged round does not come, and what must have happened."""
Note = Callable[[Sequence[UnrollHeader]], None]
logger = logging.getLogger(__name__)


class Stream(Protocol):
    """What is used of core/sampling.py's SampleStream."""

    def request(
        self,
        batches: int,
        batch_size: int = 0,
        *,
        apply: tuple[int, Sequence[int]] | None = None,
        priorities: tuple[Array, Array] | None = None,
    ) -> int:
        """Ask for a draw."""
        ...

    def receive(self, timeout_s: float | None = None) -> Reply:
        """The next reply, or news."""
        ...

    @property
    def next_draw(self) -> int:
        """The number of the next draw."""
        ...

    def wake(self) -> None:
        """Let `receive` raise DeadlineError."""
        ...

    def close(self) -> None:
        """End it; `receive` raises TableClosedError."""
        ...


class ReplayFetch:
    """What both paces share: replies, news, priorities. `note` is told of every header that comes."""

    def __init__(
        self, stream: Stream, table: Replay, max_items: int, without_rows: Collection[str], note: Note
    ) -> None:
        self._stream, self._table, self._max_items = stream, table, max_items
        self._without_rows, self._note = {"key", "probability", *without_rows}, note
        self._priorities: deque[tuple[Array, Array]] = deque()
        self._wakes = threading.Semaphore(0)
        self._closed = False

    def set_priorities(self, keys: Array, priorities: Array) -> None:
        """Send these with the next request."""
        self._priorities.append((keys, priorities))

    def wake(self) -> None:
        """Let the source's thread look whether a round is complete."""
        self._wakes.release()
        self._stream.wake()

    def close(self) -> None:
        """End the stream, and with it the fetching."""
        self._closed = True
        self._stream.close()

    def _receive(self) -> Reply | None:
        """The next reply, its news told; None after `wake`. Raises TableClosedError after `close`."""
        try:
            reply = self._stream.receive()
        except DeadlineError:
            if self._wakes.acquire(blocking=False):
                return None
            raise
        if reply.headers:
            self._note(reply.headers)
        return reply

    def _request(self, parts: Sequence[Part], apply: tuple[int, Sequence[int]] | None = None) -> None:
        """Ask for these draws, the first one behind `apply` and the priorities that are known by now."""
        known = []
        while self._priorities:
            known.append(self._priorities.popleft())
        priorities = latest(known)
        for part in parts:
            self._stream.request(part.batches, part.batch_size, apply=apply, priorities=priorities)
            apply = priorities = None

    def _deliver(self, drawn: Sequence[Reply], headers: Sequence[UnrollHeader]) -> tuple[Columns, Delivery]:
        """One batch of all that was drawn for it."""
        columns = dict(join([_columns(reply) for reply in drawn], self._without_rows))
        delivery = Delivery(None, headers, keys=columns.pop("key"))
        delivery.limiter_wait_s = sum(reply.waited_s for reply in drawn)
        return columns, delivery


def _columns(reply: Reply) -> dict[str, Array]:
    """All that a reply has for each of its items."""
    found = {"key": reply.keys, "probability": reply.probability, **(reply.columns or {})}
    return {name: column for name, column in found.items() if column is not None}


class AsyncFetch(ReplayFetch):
    """`batches_per_round` batches a round, `AHEAD` rounds requested before they are needed."""

    def __init__(
        self, stream: Stream, table: Replay, max_items: int, without_rows: Collection[str], note: Note
    ) -> None:
        super().__init__(stream, table, max_items, without_rows, note)
        self._parts = split(table.batches_per_round, table.batch_size, max_items)
        self._drawn: list[Reply] = []
        for _ in range(AHEAD):
            self._request(self._parts)

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next round's batch, or the news that came while it waited."""
        try:
            while len(self._drawn) < len(self._parts):
                reply = self._receive()
                if reply is not None and reply.keys is None:
                    return None, Delivery(None, reply.headers, is_round=False)
                if reply is not None:
                    self._drawn.append(reply)
            self._request(self._parts)
        except TableClosedError:
            if self._closed:
                return None
            raise
        drawn, self._drawn = self._drawn, []
        return self._deliver(drawn, [header for reply in drawn for header in reply.headers])


class LagFetch(ReplayFetch):
    """Round after round: what is staged is applied, then the last round's priorities, then so many batches as are due.

    The request for a round goes out when the version before it is published and all that its cohort owes is staged, so
    draws and priorities come in the same order in every run. `rounds` gives the complete ones, None at the end.
    `begin` is where a checkpoint left off.
    `went_back`: a power cut or a rollback took what the run had put into the table, so it cannot be repeated.
    """

    def __init__(
        self,
        stream: Stream,
        table: Replay,
        max_items: int,
        without_rows: Collection[str],
        note: Note,
        rounds: queue.SimpleQueue[CompleteRound | None],
        patience_s: float,
        begin: Drawing,
    ) -> None:
        super().__init__(stream, table, max_items, without_rows, note)
        self._rounds, self._patience_s, self._seed = rounds, patience_s, begin.seed
        self._count = UpdateCount(table.min_size, table.updates_per_env_step, begin.env_steps, begin.updates)
        self._may_draw = begin.may_draw  # from an empty table a draw would wait for ever
        if begin.keys is not None and begin.priorities is not None:
            self.set_priorities(begin.keys, begin.priorities)
        self._epoch: int | None = None
        self.went_back = False

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next round's batch; none where no update is due yet."""
        try:
            complete = self._next_round()
            if complete is None:
                return None
            batches = self._count.due(sum(h.env_steps for h in complete.headers), may_draw=self._may_draw)
            parts = split(batches, self._table.batch_size, self._max_items) or [Part(0, 0)]
            self._request(parts, (complete.round, [h.slot for h in complete.headers]))
            drawn = [self._reply(complete.round) for _ in parts]
        except TableClosedError:
            if self._closed:
                return None
            raise
        self._may_draw = drawn[-1].inserted_items > 0
        if not batches:
            return None, Delivery(None, complete.headers)
        columns, delivery = self._deliver(drawn, complete.headers)
        delivery.limiter_wait_s = 0.0  # it waits for actors
        return columns, delivery

    def drawing(self) -> Drawing:
        """Where it stands. For the training thread between a delivery and the version after it: nothing moves then."""
        keys, priorities = latest(list(self._priorities)) or (None, None)
        count = self._count
        return Drawing(
            self._seed, self._stream.next_draw, count.env_steps, count.updates, self._may_draw, keys, priorities
        )

    def _next_round(self) -> CompleteRound | None:
        while self._rounds.empty():
            self._receive()
        return self._rounds.get()

    def _reply(self, round_: int) -> Reply:
        """The next draw. All of the round was staged, so it waits only for actors that send again to a new server."""
        while True:
            reply = self._receive()
            if reply is not None and reply.keys is not None:
                self._look_at(reply.epoch, round_)
                return reply
            if reply is not None and reply.waited_s > self._patience_s:
                raise DeadlineError(
                    f"round {round_} was staged and waits at the replay server for {reply.waited_s:.0f} s "
                    f"(faults.learner_patience_s {self._patience_s:g}): {reply.reason or 'no reason told'}. "
                    f"{_why_stuck(reply.reason)}; go on from the checkpoint with --resume"
                )

    def _look_at(self, epoch: int, round_: int) -> None:
        if self._epoch not in (None, epoch):
            self.went_back = True
            logger.warning(
                "round %d: the replay table went back in time (epoch %x is %x now): a power cut or a rollback took "
                "items that were in it. The run goes on without them; the same seed will not give its weights again",
                *(round_, self._epoch, epoch),
            )
        self._epoch = epoch


def _why_stuck(reason: str) -> str:
    """What must have happened, by what the server waits for."""
    return next((what for words, what in _STUCK.items() if words in reason), "The replay server's log may say more")
