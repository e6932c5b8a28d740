"""One hosted table on a loop of its own, and senders to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np

from core.clock import FakeClock
from core.types import Array, UnrollHeader
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue
from tests.unit.counting import CountingLife, signature

T, B = 3, 2
DEADLINE_S = 10.0


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on a loop of its own, with a deadline."""

    async def body() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test

    asyncio.run(body())


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def hosted(capacity: int = 1) -> Hosted[FifoQueue]:
    return Hosted("experience", FifoQueue(signature(T, B), capacity), FakeClock(7.0))


class Sender:
    """One stream of one life."""

    def __init__(self, table: Hosted[FifoQueue], slot: int, incarnation: int) -> None:
        self.table, self.slot, self.incarnation = table, slot, incarnation
        self.token = table.open_life(slot, incarnation)
        self.size = (T, B)
        self.columns: dict[str, Array] = CountingLife(slot, incarnation, B, np.random.default_rng(1)).unroll(T)

    async def send(self, seq: int) -> None:
        header = UnrollHeader(self.slot, 0, 0, T)
        await self.table.insert(self.token, self.incarnation, seq, header, self.columns, self.size)

    def start(self, seq: int) -> asyncio.Task[None]:
        return asyncio.create_task(self.send(seq))


def take(table: Hosted[FifoQueue]) -> list[int]:
    """The learner takes an unroll: its slot."""
    batch = table.table.take(1)
    assert batch is not None
    table.changed()
    return [header.slot for header in batch.headers]
