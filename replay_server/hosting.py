"""One table on the event loop: who waits for what, wake-ups, dedupe of streams, close.

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
from core.errors import ItemRejectedError, TableClosedError
from core.types import Columns, UnrollHeader
from replay_server.table import Table

logger = logging.getLogger(__name__)
REMEMBERED_LIVES = 16
"""Lives of a slot that are over and may try to come back."""
T = TypeVar("T", bound=Table)


@dataclass(frozen=True)
class Waiter:
    """Somebody who waits: for people and metrics."""

    who: str
    what: str
    since_s: float


class Hosted(Generic[T]):
    """A table with its waiters."""

    def __init__(self, name: str, table: T, clock: Clock) -> None:
        self.name, self.table, self._clock = name, table, clock
        self.on_insert: Callable[[UnrollHeader], None] = lambda header: None
        self._waiting: dict[asyncio.Future[None], Waiter] = {}
        self._lives: dict[int, tuple[int, object]] = {}
        self._ended: dict[int, deque[int]] = {}
        self._closed = False

    def open_life(self, slot: int, incarnation: int) -> object:
        """A stream of this life begins: the slot's former life is over, and so is an older stream of the same life.

        Returns a token that `insert` checks.
        """
        if self._closed:
            raise TableClosedError(f"table {self.name!r} is closed")
        former, ended = self._lives.get(slot), self._ended.setdefault(slot, deque(maxlen=REMEMBERED_LIVES))
        if incarnation in ended:
            raise ItemRejectedError(f"incarnation {incarnation:x} of slot {slot} was replaced: join anew")
        if former is not None and former[0] != incarnation:
            self.table.end_life(slot, former[0])
            ended.append(former[0])
        logger.info("table %r: slot %d inserts (incarnation %x)", self.name, slot, incarnation)
        token = object()
        self._lives[slot] = (incarnation, token)
        self.changed()
        return token

    async def insert(self, token: object, incarnation: int, seq: int, header: UnrollHeader, columns: Columns) -> None:
        """Put an item in when the table may take it."""
        expected = self.table.next_seq(header.slot, incarnation)
        if seq > expected:
            raise ItemRejectedError(f"table {self.name!r} expects seq {expected} of slot {header.slot}, not {seq}")
        if seq == expected:
            who = f"actor {header.slot}"
            await self.until(
                lambda: self._taken_over(token, header.slot) or self.table.may_insert(header.env_steps),
                who,
                "room to insert",
            )
            if self._taken_over(token, header.slot):
                raise ItemRejectedError(f"another stream took over slot {header.slot} of table {self.name!r}")
            if self.table.insert(incarnation, seq, header, columns):
                self.on_insert(header)
                self.changed()

    def _taken_over(self, token: object, slot: int) -> bool:
        return self._lives.get(slot, (0, None))[1] is not token

    async def until(self, allowed: Callable[[], bool], who: str, what: str, timeout_s: float | None = None) -> bool:
        """Wait until `allowed()`; False after `timeout_s`. Raises TableClosedError when the table is closed."""
        if allowed() and not self._closed:
            return True
        loop = asyncio.get_running_loop()
        end_s = None if timeout_s is None else self._clock.now_s() + timeout_s
        waiter = Waiter(who, what, self._clock.now_s())
        while True:
            if self._closed:
                raise TableClosedError(f"table {self.name!r} was closed while {who} waited for {what}")
            if allowed():
                return True
            left_s = None if end_s is None else end_s - self._clock.now_s()
            if left_s is not None and left_s <= 0:
                return False
            future: asyncio.Future[None] = loop.create_future()
            self._waiting[future] = waiter
            try:
                await asyncio.wait((future,), timeout=left_s)
            finally:
                del self._waiting[future]

    def changed(self) -> None:
        """Let every waiter look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def waiters(self) -> list[Waiter]:
        """Who waits now."""
        return list(self._waiting.values())

    def close(self) -> None:
        """Wake every waiter with TableClosedError; idempotent."""
        self._closed = True
        self.changed()
