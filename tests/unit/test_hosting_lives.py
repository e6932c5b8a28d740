"""replay_server/hosting.py: whose stream is whose, and how much is remembered of lives that are gone."""

from __future__ import annotations

import pytest

from core.clock import FakeClock
from core.errors import ItemRejectedError
from replay_server import hosting as hosting_module
from replay_server.definition import ReplayDefinition
from replay_server.hosting import Hosted
from replay_server.replay import ReplayTable
from tests.unit.counting import signature
from tests.unit.hosting import B, Sender, T, hosted, run, settle, take


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
