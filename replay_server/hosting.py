"""One table on the event loop: who waits for what, wake-ups, whose stream is whose, close.

Everything here runs on the loop's thread alone, so there is no lock. The tables themselves know no asyncio.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.clock import Clock
from core.errors import ItemRejectedError, SeatLostError, ShoalError, TableClosedError, UnavailableError
from core.types import Columns, UnrollHeader
from replay_server.dedupe import Life
from replay_server.in_flight import InFlight, Share
from replay_server.table import Size, Table

logger = logging.getLogger(__name__)
REMEMBERED_LIVES = 1 << 14
"""Lives that are over and may try to come back; the oldest are forgotten."""
T = TypeVar("T", bound=Table)


@dataclass(eq=False)
class Waiter:
    """Somebody who waits until it is `allowed`. The rest is for people and metrics; `why` has the arithmetic."""

    who: str
    what: str
    since_s: float
    why: Callable[[], str | None]
    allowed: Callable[[], bool]
    woken: asyncio.Future[None]


class Hosted(Generic[T]):
    """A table with its waiters. `arriving` and `leaving` bound the bytes of items on their way in and of draws."""

    def __init__(
        self,
        name: str,
        table: T,
        clock: Clock,
        arriving: InFlight | None = None,
        leaving: InFlight | None = None,
        learner: int = 0,
    ) -> None:
        self.name, self.table, self._clock = name, table, clock
        self.learner = learner
        """The incarnation of the one whose table it is; 0: nobody's."""
        self.arriving, self.leaving = (Share(whole or InFlight(self.changed)) for whole in (arriving, leaving))
        self.on_insert: Callable[[UnrollHeader], None] = lambda header: None
        self._waiting: dict[Waiter, None] = {}
        self._line: deque[Waiter] = deque()  # inserts that wait, in the order of arrival; none of them is in `_waiting`
        self._lives: dict[int, tuple[int, object]] = {}  # the newest of each slot; token None: it has no stream
        self._ended: dict[Life, None] = {}  # the one that ended first is the first
        self.listener: object = None
        """The stream that is told the headers of what came: the newest that wants them."""
        self.manifest_s = clock.now_s()
        self.writing = asyncio.Lock()
        """Held while a manifest is written, and for a rollback."""
        self._closed: TableClosedError | UnavailableError | None = None
        self.know_lives()

    def figures(self) -> dict[str, float]:
        """The table's, and how old its last manifest is (before the first: how long it is served)."""
        figures = self.table.figures()
        if self.table.durable:
            figures["manifest_age_s"] = self._clock.now_s() - self.manifest_s
        return figures

    def know_lives(self) -> None:
        """Take the lives that are over from a table that was recovered or rolled back."""
        for life in self.table.ended_lives():
            self._remember_ended(life)

    def _remember_ended(self, life: Life) -> None:
        self._ended[life] = None
        if len(self._ended) > REMEMBERED_LIVES:
            del self._ended[next(iter(self._ended))]

    # ------------------------------------------------------------------------------------------ lives

    def check_learner(self, learner: int) -> None:
        """Raises SeatLostError for a former learner, and for an actor that one gave its slot. 0 stands for none."""
        if learner and self.learner and learner != self.learner:
            raise SeatLostError(f"table {self.name!r} is another learner's by now: join anew")

    def open_life(self, slot: int, incarnation: int) -> object:
        """A stream of this life begins: the slot's former life is over, and so is an older stream of the same life.

        Returns a token that `insert` checks.
        """
        self.check_open()
        former = self._lives.get(slot)
        writing = {other for other, (_, token) in self._lives.items() if token is not None}
        full = self.table.why_no_life(len(writing | {slot}))
        if full is not None:
            raise ItemRejectedError(f"slot {slot} cannot write to table {self.name!r}: {full}")
        if (slot, incarnation) in self._ended:
            raise SeatLostError(f"incarnation {incarnation:x} of slot {slot} is over or was replaced: join anew")
        known = {former[0]} if former is not None else set(self.table.incarnations(slot))
        for over in known - {incarnation}:
            self.table.end_life(slot, over)
            self._remember_ended((slot, over))
        logger.info("table %r: slot %d inserts (incarnation %x)", self.name, slot, incarnation)
        token = object()
        self._lives[slot] = (incarnation, token)
        self._wake_all()
        return token

    def end_life(self, token: object, life: Life) -> None:
        """The client said that this life is over: nothing is kept for its sake."""
        if not self._taken_over(token, life[0]):
            del self._lives[life[0]]
            self._remember_ended(life)
            self.table.end_life(*life)
            self.changed()

    def close_stream(self, token: object, life: Life) -> None:
        """The stream is gone. Its life may come back, unless another one has the slot by then."""
        if not self._taken_over(token, life[0]):
            self._lives[life[0]] = life[1], None
            idle = [slot for slot, (_, stream) in self._lives.items() if stream is None]
            if len(idle) > REMEMBERED_LIVES:
                del self._lives[idle[0]]

    def _taken_over(self, token: object, slot: int) -> bool:
        return self._lives.get(slot, (0, None))[1] is not token

    # ------------------------------------------------------------------------------------------ inserts

    def may_insert_at_once(self, life: Life, seq: int, header: UnrollHeader, size: Size) -> bool:
        """Whether `insert` will not wait: nobody is before it and the table allows it, or knows it."""
        if seq < self.table.next_seq(*life):
            return True
        return not self._line and self.table.may_insert(*life, *size, header.env_steps)

    async def insert(
        self, token: object, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size
    ) -> None:
        """Put an item in when the table may take it; items that must wait go in in the order in which they came."""
        life = (header.slot, incarnation)
        self._check_seq(token, life, seq)
        if not self.may_insert_at_once(life, seq, header, size):
            await self._in_line(token, life, header, size)
        if self.table.insert(incarnation, seq, header, columns, size):
            self.on_insert(header)
            self.changed()

    def stage(
        self, token: object, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size
    ) -> None:
        """Put an item aside until its round is applied."""
        self._check_seq(token, (header.slot, incarnation), seq)
        if self.table.stage(incarnation, seq, header, columns, size):
            self.on_insert(header)
        self.changed()

    async def hold(self, nbytes: int, who: str) -> None:
        """Wait until so many bytes more may be on their way in; `arriving.release` frees them."""
        share = self.arriving
        if share.line or not share.may_hold(nbytes):
            line = share.line
            waiter = self._waiter(
                who, "memory for its item", share.why, lambda: line[0] is waiter and share.may_hold(nbytes)
            )
            line.append(waiter)
            try:
                await self._wait_among(waiter, None)
            finally:
                line.remove(waiter)
                self.changed()
        share.hold(nbytes)

    def _check_seq(self, token: object, life: Life, seq: int) -> None:
        self.check_open()
        if self._taken_over(token, life[0]):
            raise SeatLostError(f"another stream took over slot {life[0]} of table {self.name!r}")
        expected = self.table.next_seq_sent(*life)
        if seq > expected:
            raise ItemRejectedError(f"table {self.name!r} expects seq {expected} of slot {life[0]}, not {seq}")

    async def _in_line(self, token: object, life: Life, header: UnrollHeader, size: Size) -> None:
        table, line, steps = self.table, self._line, header.env_steps

        def turn() -> bool:
            first = line[0] is waiter and table.may_insert(*life, *size, steps)
            return first or self._taken_over(token, life[0])

        def why() -> str | None:
            return table.why_insert_waits(*life, *size, steps)

        waiter = self._waiter(f"actor {life[0]}", "room to insert", why, turn)
        line.append(waiter)
        try:
            await self._wait(waiter, None)
        finally:
            line.remove(waiter)
            if line:
                _wake_if_allowed(line[0])
        if self._taken_over(token, life[0]):
            raise SeatLostError(f"another stream took over slot {life[0]} of table {self.name!r}")

    # ------------------------------------------------------------------------------------------ waiting

    async def until(
        self,
        allowed: Callable[[], bool],
        who: str,
        what: str,
        timeout_s: float | None = None,
        why: Callable[[], str | None] = lambda: None,
        since_s: float | None = None,
    ) -> bool:
        """Wait until `allowed()`; False after `timeout_s`. Raises TableClosedError when the table is closed.

        `allowed` is asked after every change, so it must be cheap. Who waits again after a timeout says `since_s` when
        it began.
        """
        self.check_open()
        if allowed():
            return True
        return await self._wait_among(self._waiter(who, what, why, allowed, since_s), timeout_s)

    async def _wait_among(self, waiter: Waiter, timeout_s: float | None) -> bool:
        self._waiting[waiter] = None
        try:
            return await self._wait(waiter, timeout_s)
        finally:
            del self._waiting[waiter]

    def _waiter(
        self,
        who: str,
        what: str,
        why: Callable[[], str | None],
        allowed: Callable[[], bool],
        since_s: float | None = None,
    ) -> Waiter:
        since_s = self._clock.now_s() if since_s is None else since_s
        return Waiter(who, what, since_s, why, allowed, asyncio.get_running_loop().create_future())

    async def _wait(self, waiter: Waiter, timeout_s: float | None) -> bool:
        end_s = None if timeout_s is None else self._clock.now_s() + timeout_s
        while True:
            self.check_open(f" while {waiter.who} waited for {waiter.what}")
            if waiter.allowed():
                return True
            left_s = None if end_s is None else end_s - self._clock.now_s()
            if left_s is not None and left_s <= 0:
                return False
            await asyncio.wait((waiter.woken,), timeout=left_s)
            if waiter.woken.done():
                waiter.woken = asyncio.get_running_loop().create_future()

    def changed(self) -> None:
        """Wake those who may go on now; of the inserts in line that can only be the first."""
        if self._line:
            _wake_if_allowed(self._line[0])
        for waiter in self._waiting:
            _wake_if_allowed(waiter)

    def _wake_all(self) -> None:
        for waiter in (*self._waiting, *self._line):
            _wake(waiter)

    def waiters(self) -> list[Waiter]:
        """Who waits now."""
        return [waiter for waiter in (*self._waiting, *self._line) if waiter.what]

    def waited_s(self, waiter: Waiter) -> float:
        """For how long."""
        return self._clock.now_s() - waiter.since_s

    def break_streams(self, error: UnavailableError) -> None:
        """End everybody's wait with `error`; the streams may come back at once, to a table that went back in time."""
        self._closed = error
        self._wake_all()
        self._lives.clear()
        self._ended.clear()

    def close(self) -> None:
        """Wake every waiter with TableClosedError; idempotent."""
        self._closed = TableClosedError(f"table {self.name!r} was closed")
        self._wake_all()

    def check_open(self, when: str = "") -> None:
        """Raises what `close` or `break_streams` ended the streams with."""
        if self._closed is not None:
            raise type(self._closed)(f"{self._closed}{when}")


def _wake_if_allowed(waiter: Waiter) -> None:
    if waiter.woken.done():
        return
    try:
        allowed = waiter.allowed()
    except ShoalError:  # it is the waiter's own: it will raise again where it belongs
        allowed = True
    if allowed:
        _wake(waiter)


def _wake(waiter: Waiter) -> None:
    if not waiter.woken.done():
        waiter.woken.set_result(None)
