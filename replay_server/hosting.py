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
from core.errors import ItemRejectedError, TableClosedError, UnavailableError
from core.types import Columns, UnrollHeader
from replay_server.dedupe import Life
from replay_server.table import Size, Table

logger = logging.getLogger(__name__)
REMEMBERED_LIVES = 16
"""Lives of a slot that are over and may try to come back."""
IN_FLIGHT_BYTES = 512 << 20
"""Bytes of items that have come and are not in the table yet, all streams together."""
T = TypeVar("T", bound=Table)


@dataclass(eq=False)
class Waiter:
    """Somebody who waits: for people and metrics. `why` has the arithmetic."""

    who: str
    what: str
    since_s: float
    why: Callable[[], str | None]
    woken: asyncio.Future[None]


class Hosted(Generic[T]):
    """A table with its waiters."""

    def __init__(self, name: str, table: T, clock: Clock) -> None:
        self.name, self.table, self._clock = name, table, clock
        self.on_insert: Callable[[UnrollHeader], None] = lambda header: None
        self._waiting: dict[Waiter, None] = {}
        self._line: deque[Waiter] = deque()  # inserts that wait, in the order of arrival
        self._lives: dict[int, tuple[int, object]] = {}
        self._ended: dict[int, deque[int]] = {}
        self.in_flight_bytes = 0
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
        for slot, incarnation in self.table.ended_lives():
            self._ended.setdefault(slot, deque(maxlen=REMEMBERED_LIVES)).append(incarnation)

    # ------------------------------------------------------------------------------------------ lives

    def open_life(self, slot: int, incarnation: int) -> object:
        """A stream of this life begins: the slot's former life is over, and so is an older stream of the same life.

        Returns a token that `insert` checks.
        """
        self._check_open()
        former, ended = self._lives.get(slot), self._ended.setdefault(slot, deque(maxlen=REMEMBERED_LIVES))
        if incarnation in ended:
            raise ItemRejectedError(f"incarnation {incarnation:x} of slot {slot} is over or was replaced: join anew")
        known = {former[0]} if former is not None else set(self.table.incarnations(slot))
        for over in known - {incarnation}:
            self.table.end_life(slot, over)
            ended.append(over)
        logger.info("table %r: slot %d inserts (incarnation %x)", self.name, slot, incarnation)
        token = object()
        self._lives[slot] = (incarnation, token)
        self._wake_all()
        return token

    def end_life(self, token: object, life: Life) -> None:
        """The client said that this life is over: nothing is kept for its sake."""
        if not self._taken_over(token, life[0]):
            del self._lives[life[0]]
            self._ended[life[0]].append(life[1])
            self.table.end_life(*life)
            self.changed()

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
        if self._closed is None and self.table.insert(incarnation, seq, header, columns, size):
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

    async def reserve(self, nbytes: int, who: str) -> None:
        """Wait until so many bytes more may be held for items that are not in the table yet. One item always may."""
        if self.in_flight_bytes > 0 and self.in_flight_bytes + nbytes > IN_FLIGHT_BYTES:
            await self.until(
                lambda: self.in_flight_bytes == 0 or self.in_flight_bytes + nbytes <= IN_FLIGHT_BYTES,
                who,
                "memory for its item",
                why=lambda: f"{self.in_flight_bytes} of {IN_FLIGHT_BYTES} bytes hold items that wait for room",
            )
        self.in_flight_bytes += nbytes

    def release(self, nbytes: int) -> None:
        """Those bytes are free again."""
        self.in_flight_bytes -= nbytes
        if nbytes and self.in_flight_bytes + nbytes > IN_FLIGHT_BYTES // 2:
            self.changed()

    def _check_seq(self, token: object, life: Life, seq: int) -> None:
        self._check_open()
        if self._taken_over(token, life[0]):
            raise ItemRejectedError(f"another stream took over slot {life[0]} of table {self.name!r}")
        expected = self.table.next_seq_sent(*life)
        if seq > expected:
            raise ItemRejectedError(f"table {self.name!r} expects seq {expected} of slot {life[0]}, not {seq}")

    async def _in_line(self, token: object, life: Life, header: UnrollHeader, size: Size) -> None:
        table, line, steps = self.table, self._line, header.env_steps
        waiter = self._waiter(f"actor {life[0]}", "room to insert", lambda: table.why_insert_waits(*life, *size, steps))

        def turn() -> bool:
            first = line[0] is waiter and table.may_insert(*life, *size, steps)
            return first or self._taken_over(token, life[0])

        line.append(waiter)
        try:
            await self._wait(waiter, turn, None)
        finally:
            line.remove(waiter)
            if line:
                _wake(line[0])
        if self._taken_over(token, life[0]):
            raise ItemRejectedError(f"another stream took over slot {life[0]} of table {self.name!r}")

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

        Who waits again after a timeout says `since_s` when it began.
        """
        self._check_open()
        if allowed():
            return True
        return await self._wait(self._waiter(who, what, why, since_s), allowed, timeout_s)

    def _waiter(self, who: str, what: str, why: Callable[[], str | None], since_s: float | None = None) -> Waiter:
        since_s = self._clock.now_s() if since_s is None else since_s
        return Waiter(who, what, since_s, why, asyncio.get_running_loop().create_future())

    async def _wait(self, waiter: Waiter, allowed: Callable[[], bool], timeout_s: float | None) -> bool:
        end_s = None if timeout_s is None else self._clock.now_s() + timeout_s
        self._waiting[waiter] = None
        try:
            while True:
                self._check_open(f" while {waiter.who} waited for {waiter.what}")
                if allowed():
                    return True
                left_s = None if end_s is None else end_s - self._clock.now_s()
                if left_s is not None and left_s <= 0:
                    return False
                await asyncio.wait((waiter.woken,), timeout=left_s)
                if waiter.woken.done():
                    waiter.woken = asyncio.get_running_loop().create_future()
        finally:
            del self._waiting[waiter]

    def changed(self) -> None:
        """Let those look again who may go on: everybody, but of the inserts in line only the first."""
        if self._waiting:
            behind = set(self._line)
            if self._line:
                behind.discard(self._line[0])
            for waiter in self._waiting:
                if waiter not in behind:
                    _wake(waiter)

    def _wake_all(self) -> None:
        for waiter in self._waiting:
            _wake(waiter)

    def waiters(self) -> list[Waiter]:
        """Who waits now."""
        return [waiter for waiter in self._waiting if waiter.what]

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

    def _check_open(self, when: str = "") -> None:
        if self._closed is not None:
            raise type(self._closed)(f"{self._closed}{when}")


def _wake(waiter: Waiter) -> None:
    if not waiter.woken.done():
        waiter.woken.set_result(None)
