"""replay_server/hosting.py: nobody sleeps through a wake-up, close ends every wait, a newer stream takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from core.clock import FakeClock, SystemClock
from core.errors import ItemRejectedError, ReplayError, TableClosedError
from core.types import Array, UnrollHeader
from replay_server import hosting as hosting_module
from replay_server.definition import ReplayDefinition
from replay_server.hosting import Hosted
from replay_server.in_flight import InFlight, Share
from replay_server.queue import FifoQueue
from replay_server.replay import ReplayTable
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


def test_a_newer_stream_of_the_same_life_takes_over() -> None:
    async def test() -> None:
        table = hosted()
        older = Sender(table, 0, 1)
        await older.send(1)
        waiting = older.start(2)
        await settle()
        newer = Sender(table, 0, 1)
        with pytest.raises(ItemRejectedError, match="another stream took over slot 0"):
            await waiting  # at once, although there is no room yet
        assert table.table.next_seq(0, 1) == 2
        take(table)
        await newer.send(2)
        with pytest.raises(ItemRejectedError, match="took over"):
            await older.start(3)

    run(test())


def test_a_new_life_of_a_slot_ends_the_former_one() -> None:
    async def test() -> None:
        table = hosted(10)
        former = Sender(table, 0, 1)
        await former.send(1)
        other = Sender(table, 1, 1)
        await other.send(1)
        replacement = Sender(table, 0, 2)
        assert (table.table.next_seq(0, 1), table.table.next_seq(1, 1)) == (1, 2)
        with pytest.raises(ItemRejectedError):
            await former.send(1)
        await replacement.send(1)
        await other.send(2)
        assert table.table.stats().inserted == 4

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


def test_a_life_that_was_replaced_cannot_come_back() -> None:
    async def test() -> None:
        table = hosted(4)
        old = Sender(table, 0, 11)
        await old.send(1)
        await Sender(table, 0, 12).send(1)
        with pytest.raises(ItemRejectedError, match="was replaced: join anew"):
            table.open_life(0, 11)
        assert table.table.stats().inserted == 2

    run(test())


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


def test_lives_that_are_over_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting_module, "REMEMBERED_LIVES", 3)
    table = hosted()
    for slot in range(6):
        table.end_life(table.open_life(slot, 1), (slot, 1))
    assert (table._lives, list(table._ended)) == ({}, [(3, 1), (4, 1), (5, 1)])
    with pytest.raises(ItemRejectedError, match="incarnation 1 of slot 5 is over"):
        table.open_life(5, 1)


def test_a_stream_that_vanished_may_come_back_until_another_life_has_its_slot() -> None:
    table = hosted()
    older = table.open_life(1, 7)
    newer = table.open_life(1, 7)
    table.close_stream(older, (1, 7))
    assert table._lives == {1: (7, newer)}
    table.close_stream(newer, (1, 7))
    table.open_life(1, 7)
    assert not table._ended
    table.open_life(1, 8)
    with pytest.raises(ItemRejectedError, match="incarnation 7 of slot 1 is over"):
        table.open_life(1, 7)


def test_lives_without_a_stream_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting_module, "REMEMBERED_LIVES", 2)
    table = hosted()
    stays = table.open_life(9, 1)
    for slot in range(5):
        table.close_stream(table.open_life(slot, 1), (slot, 1))
    assert table._lives == {9: (1, stays), 3: (1, None), 4: (1, None)}


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


def test_more_lives_than_blocks_fit_are_refused_with_the_arithmetic() -> None:
    table = ReplayTable.open(ReplayDefinition("t", signature(T, B), 1000, 8, 1, 1, 0.0, 0, 1, 1))
    replay = Hosted("t", table, FakeClock())
    fit = next(lives for lives in range(1, 1000) if table.why_no_life(lives + 1))
    for slot in range(fit):
        replay.open_life(slot, 1)
    with pytest.raises(
        ItemRejectedError, match=rf"slot {fit} cannot write to table 't': the table .* {fit + 1} actors"
    ):
        replay.open_life(fit, 1)
    replay.open_life(0, 2)  # a replacement is no more
