"""replay_server/in_flight.py behind a hosted table: memory in the order of asking, and for every table some."""

from __future__ import annotations

import asyncio

import pytest

from core.clock import FakeClock
from core.errors import TableClosedError
from replay_server.hosting import Hosted
from replay_server.in_flight import InFlight, Share
from replay_server.queue import FifoQueue
from tests.unit.counting import signature
from tests.unit.hosting import B, T, hosted, run, settle


def staged(table: Hosted[FifoQueue]) -> list[tuple[str, str]]:
    return [(w.who, w.what) for w in table.waiters()]


def test_memory_is_given_in_the_order_of_asking_and_one_item_always_fits() -> None:
    async def test() -> None:
        table = hosted()
        memory = table.arriving = Share(InFlight(table.changed, 100))
        await table.hold(60, "actor 0")
        large = asyncio.create_task(table.hold(1000, "actor 1"))
        await settle()
        small = asyncio.create_task(table.hold(1, "actor 2"))  # there is room, and somebody before it
        await settle()
        assert staged(table) == [("actor 1", "memory for its item"), ("actor 2", "memory for its item")]
        assert "60 of 100 bytes hold items that came before" in (table.waiters()[0].why() or "")
        memory.release(60)
        await large
        await settle()
        assert (small.done(), memory.nbytes, memory.full) == (False, 1000, True)
        assert memory.why().startswith("1,000 of 100 bytes")
        memory.release(1000)
        await small
        assert (memory.nbytes, list(memory.line), table.waiters()) == (1, [], [])

    run(test())


def test_who_waits_for_memory_and_gives_up_lets_the_next_one_go() -> None:
    async def test() -> None:
        table = hosted()
        memory = table.arriving = Share(InFlight(table.changed, 100))
        await table.hold(60, "actor 0")
        large = asyncio.create_task(table.hold(50, "actor 1"))
        await settle()
        small = asyncio.create_task(table.hold(40, "actor 2"))
        await settle()
        large.cancel()
        await small
        assert memory.nbytes == 100
        third = asyncio.create_task(table.hold(1, "actor 3"))
        await settle()
        table.close()
        with pytest.raises(TableClosedError, match="while actor 3 waited for memory for its item"):
            await third
        assert not memory.line

    run(test())


def test_a_table_never_waits_for_memory_that_another_one_holds() -> None:
    async def test() -> None:
        whole = InFlight(lambda: None, 100)
        one, other = (Hosted(name, FifoQueue(signature(T, B), 1), FakeClock(), whole, whole) for name in "ab")
        await one.hold(100, "actor 0")
        assert not one.arriving.may_hold(1)
        await other.hold(90, "actor 1")
        assert (whole.nbytes, one.arriving.full, other.arriving.full) == (190, True, True)
        one.arriving.release(100)
        assert (whole.nbytes, one.arriving.full) == (90, False)

    run(test())
