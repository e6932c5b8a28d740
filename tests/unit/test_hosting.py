"""replay_server/hosting.py: nobody sleeps through a wake-up, close ends every wait, items go in once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from core.clock import SystemClock
from core.errors import ItemRejectedError, ReplayError, TableClosedError
from core.types import UnrollHeader
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue
from tests.unit.counting import signature
from tests.unit.hosting import B, Sender, T, hosted, run, settle, take


def test_a_full_table_holds_an_insert_until_there_is_room() -> None:
    async def test() -> None:
        table = hosted()
        sender = Sender(table, 4, 1)
        await sender.send(1)
        second = sender.start(2)
        await settle()
        assert not second.done()
        (waiter,) = table.waiters()
        assert (waiter.who, waiter.what, waiter.since_s) == ("actor 4", "room to insert", 7.0)
        assert take(table) == [4]
        await second
        assert table.waiters() == []
        assert table.table.next_seq(4, 1) == 3

    run(test())


def test_waiting_inserts_go_in_one_by_one_in_the_order_they_came() -> None:
    async def test() -> None:
        table = hosted()
        await Sender(table, 0, 1).send(1)
        tasks = [Sender(table, slot, 1).start(1) for slot in (3, 1, 2)]
        await settle()
        assert [w.who for w in table.waiters()] == ["actor 3", "actor 1", "actor 2"]
        order = []
        for left in (2, 1, 0):
            order += take(table)
            await settle()
            assert len(table.waiters()) == left
        assert order + take(table) == [0, 3, 1, 2]
        await asyncio.gather(*tasks)

    run(test())


def test_no_wake_up_is_lost_in_a_storm(rng: np.random.Generator) -> None:
    async def test() -> None:
        table, sent = hosted(2), 30
        senders = [Sender(table, slot, 1) for slot in range(5)]

        async def send_all(sender: Sender) -> None:
            for seq in range(1, sent + 1):
                await sender.send(seq)

        tasks = [asyncio.create_task(send_all(sender)) for sender in senders]
        taken: list[int] = []
        while len(taken) < sent * len(senders):
            await asyncio.sleep(0)
            if table.table.may_take(1) and rng.random() < 0.7:
                taken += take(table)
        await asyncio.gather(*tasks)
        assert sorted(taken) == sorted(list(range(5)) * sent)

    run(test())


def test_close_wakes_everybody_with_the_same_error() -> None:
    async def test() -> None:
        table = hosted()
        await Sender(table, 0, 1).send(1)
        tasks = [Sender(table, slot, 1).start(1) for slot in (1, 2, 3)]
        tasks += [asyncio.create_task(_until(table, lambda: False))]
        await settle()
        table.close()
        table.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [TableClosedError] * 4
        assert "'experience' was closed while actor 1 waited for room to insert" in str(errors[0])
        assert table.waiters() == []
        with pytest.raises(TableClosedError, match="was closed"):
            table.open_life(0, 1)

    run(test())


async def _until(table: Hosted[FifoQueue], allowed: Callable[[], bool], timeout_s: float | None = None) -> None:
    await table.until(allowed, "the learner", "items", timeout_s)


def test_a_closed_table_takes_nothing_although_there_is_room() -> None:
    async def test() -> None:
        table = hosted()
        sender = Sender(table, 0, 1)
        table.close()
        with pytest.raises(TableClosedError):
            await sender.send(1)
        with pytest.raises(TableClosedError):
            await _until(table, lambda: True)
        assert table.table.stats().inserted == 0

    run(test())


def test_a_cancelled_wait_leaves_nothing_behind_and_wakes_the_next() -> None:
    async def test() -> None:
        table = hosted()
        await Sender(table, 0, 1).send(1)
        first, second = (Sender(table, slot, 1).start(1) for slot in (1, 2))
        await settle()
        first.cancel()
        await settle()
        assert [w.who for w in table.waiters()] == ["actor 2"]
        take(table)
        await second
        assert first.cancelled()

    run(test())


def test_a_wait_that_is_cancelled_as_it_is_woken_does_not_swallow_the_room() -> None:
    async def test() -> None:
        table = hosted()
        await Sender(table, 0, 1).send(1)
        first, second = (Sender(table, slot, 1).start(1) for slot in (1, 2))
        await settle()
        take(table)
        first.cancel()  # woken already, not yet run
        await second
        assert take(table) == [2]
        assert first.cancelled()

    run(test())


def test_duplicates_are_dropped_at_once_and_gaps_refused() -> None:
    async def test() -> None:
        table = hosted(2)
        seen: list[int] = []
        table.on_insert = lambda header: seen.append(header.slot)
        sender = Sender(table, 5, 1)
        await sender.send(1)
        await sender.send(2)
        await sender.send(1)  # the table is full, and this waits for no room
        with pytest.raises(ItemRejectedError, match="expects seq 3 of slot 5, not 4"):
            await sender.send(4)
        assert seen == [5, 5]
        assert table.table.stats().items == 2

    run(test())


def test_an_insert_that_is_refused_wakes_nobody_and_tells_nobody() -> None:
    async def test() -> None:
        table = hosted(2)
        told: list[UnrollHeader] = []
        table.on_insert = told.append
        sender = Sender(table, 0, 1)
        sender.size = (T - 1, B)
        with pytest.raises(ItemRejectedError, match="rows came"):
            await sender.send(1)
        assert told == []
        assert table.table.next_seq(0, 1) == 1

    run(test())


def test_a_wait_may_have_a_timeout() -> None:
    async def test() -> None:
        table = Hosted("experience", FifoQueue(signature(T, B), 1), SystemClock())
        assert await table.until(lambda: True, "the learner", "items", 0.0) is True
        assert await table.until(lambda: False, "the learner", "items", 0.01) is False
        assert table.waiters() == []
        sender = Sender(table, 0, 1)
        room = asyncio.create_task(table.until(lambda: table.table.may_take(1), "the learner", "items"))
        await settle()
        await sender.send(1)
        assert await room is True

    run(test())


def test_who_waits_again_says_since_when() -> None:
    async def test() -> None:
        table = hosted()
        waits = asyncio.create_task(table.until(lambda: False, "the learner", "items", 60.0, since_s=3.0))
        await settle()
        (waiter,) = table.waiters()
        assert table.waited_s(waiter) == 4.0
        waits.cancel()

    run(test())


def test_only_who_may_go_on_is_woken() -> None:
    async def test() -> None:
        table, asked, allowed = hosted(), 0, False

        def look() -> bool:
            nonlocal asked
            asked += 1
            return allowed

        waiting = asyncio.create_task(table.until(look, "a client", "items to sample"))
        await settle()
        (waiter,) = table.waiters()
        future = waiter.woken
        for _ in range(5):
            table.changed()
        assert not future.done()
        allowed = True
        table.changed()
        assert future.done()
        assert await waiting
        assert asked == 2 + 5 + 1 + 1

    run(test())


def test_who_may_not_be_asked_any_more_is_woken_and_nobody_else_hears_of_it() -> None:
    async def test() -> None:
        table, broken = hosted(), False

        def allowed() -> bool:
            if broken:
                raise ReplayError("a sample of 16 items, the table's limit is 8")
            return False

        waiting = asyncio.create_task(table.until(allowed, "a client", "items to sample"))
        await settle()
        broken = True
        table.changed()
        with pytest.raises(ReplayError, match="a sample of 16 items"):
            await waiting
        assert table.waiters() == []

    run(test())
