"""replay_server/staging.py, and lag mode in a replay table: rounds go in whole, in the order of slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ItemRejectedError
from core.types import Columns, UnrollHeader
from replay_server import staging as staging_module
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from replay_server.staging import MOST_OF_A_SLOT, Staging
from replay_server.table import Size
from tests.unit.counting import CountingLife, signature

T, B = 4, 2
SIZE = T, B
DEFINITION = ReplayDefinition("t", signature(T, B), 2000, 8, 2, 1, 0.0, 1, 1, 3, staged=True)


class Noted:
    """A staging, what it put (round, slot, incarnation, seq) and what it recorded (slot, incarnation, seq)."""

    def __init__(self) -> None:
        self.put: list[tuple[int, int, int, int]] = []
        self.recorded: list[tuple[int, int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.staging = Staging(self._put, self._record, lambda *life: self.ended.append(life))

    def _put(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> None:
        self.put.append((header.round, header.slot, incarnation, seq))

    def _record(self, incarnation: int, seq: int, header: UnrollHeader) -> None:
        self.recorded.append((header.slot, incarnation, seq))

    def add(self, slot: int, round_: int, seq: int, incarnation: int = 7, nbytes: int = 8) -> bool:
        columns = {"x": np.zeros(nbytes, np.uint8)}
        return self.staging.add(incarnation, seq, UnrollHeader(slot, round_, 0, 1), columns, SIZE)


def test_a_round_goes_in_in_the_order_of_slots_and_is_acknowledged_then() -> None:
    noted = Noted()
    for slot, missing in ((2, [0, 1]), (0, [1]), (1, [])):
        assert noted.add(slot, 1, 1)
        assert noted.staging.missing(1, [0, 1, 2]) == missing
    assert noted.add(0, 2, 2)
    assert noted.recorded == []
    noted.staging.apply(1, [2, 1, 0])
    assert noted.put == [(1, 0, 7, 1), (1, 1, 7, 1), (1, 2, 7, 1)]
    assert noted.recorded == [(0, 7, 1), (1, 7, 1), (2, 7, 1)]
    assert (len(noted.staging), noted.staging.nbytes) == (1, 8)
    assert (noted.staging.sent((0, 7)), noted.staging.sent((1, 7))) == (1, 0)


def test_what_was_applied_is_not_applied_again() -> None:
    noted = Noted()
    noted.add(0, 1, 1)
    noted.add(1, 1, 1)
    noted.staging.apply(1, [0, 1])
    once = list(noted.put)
    assert noted.staging.missing(1, [0, 1]) == []
    noted.staging.apply(1, [0, 1])
    assert noted.put == once


def test_unrolls_that_come_late_or_are_not_asked_for_are_dropped_and_acknowledged() -> None:
    noted = Noted()
    for round_ in (1, 2):
        for slot in (0, 1):
            noted.add(slot, round_, round_)
    noted.staging.apply(1, [0])  # slot 1 left the cohort in round 1
    assert noted.put == [(1, 0, 7, 1)]
    assert noted.recorded == [(0, 7, 1), (1, 7, 1)]
    assert not noted.add(2, 1, 1)  # late
    assert noted.recorded[-1] == (2, 7, 1)
    noted.staging.apply(2, [0, 1])
    assert noted.put[1:] == [(2, 0, 7, 2), (2, 1, 7, 2)]
    assert (len(noted.staging), noted.staging.nbytes) == (0, 0)


def test_a_round_that_is_skipped_is_dropped_before_and_counters_never_go_back() -> None:
    noted = Noted()
    for round_ in (1, 2, 3):
        noted.add(0, round_, round_)
    noted.staging.apply(3, [0])
    assert noted.put == [(3, 0, 7, 3)]
    assert noted.recorded == [(0, 7, 1), (0, 7, 2), (0, 7, 3)]


def test_a_round_that_is_over_behind_later_ones_is_refused() -> None:
    noted = Noted()
    noted.staging.apply(4, [])
    noted.add(0, 5, 1)
    with pytest.raises(ItemRejectedError, match="slot 0 sent round 4, which is over, behind later ones"):
        noted.add(0, 4, 2)
    assert noted.recorded == []


def test_the_next_life_of_a_slot_takes_the_place_of_the_first() -> None:
    noted = Noted()
    assert noted.add(0, 1, 5, incarnation=7)
    assert noted.add(0, 1, 1, incarnation=8, nbytes=20)  # the actor was replaced and sends its round again
    assert noted.recorded == []
    assert (noted.staging.sent((0, 7)), noted.staging.sent((0, 8)), len(noted.staging)) == (0, 1, 1)
    assert noted.staging.nbytes == 20
    noted.staging.apply(1, [0])
    assert noted.put == [(1, 0, 8, 1)]
    assert noted.recorded == [(0, 8, 1)]
    assert noted.staging.sent((0, 8)) == noted.staging.nbytes == 0


def test_headers_of_all_that_is_staged_by_round_and_slot() -> None:
    noted = Noted()
    for slot, round_ in ((1, 2), (1, 1), (0, 2)):
        noted.add(slot, round_, 1, incarnation=round_)
    assert [(h.round, h.slot) for h in noted.staging.headers()] == [(1, 1), (2, 0), (2, 1)]


def test_all_of_them_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "MOST_UNROLLS", 2)
    noted = Noted()
    noted.add(0, 1, 1)
    noted.add(1, 1, 1)
    with pytest.raises(ItemRejectedError, match="2 unrolls wait for their rounds, the limit is 2: use fewer actors"):
        noted.add(2, 1, 1)


def test_a_slot_and_all_of_them_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()
    for round_ in range(1, MOST_OF_A_SLOT + 1):
        assert noted.add(0, round_, round_)
    with pytest.raises(ItemRejectedError, match="slot 0 has 16 unrolls that wait for their rounds, the limit is 16"):
        noted.add(0, MOST_OF_A_SLOT + 1, MOST_OF_A_SLOT + 1)
    monkeypatch.setattr(staging_module, "MOST_BYTES", noted.staging.nbytes + 8)
    assert noted.add(1, 1, 1)
    with pytest.raises(ItemRejectedError, match="136 bytes wait for their rounds and 8 more came, the limit is 136"):
        noted.add(1, 2, 2)
    assert (len(noted.staging), noted.staging.nbytes, noted.staging.sent((1, 7))) == (17, 136, 1)
    noted.staging.apply(1, [0, 1])
    assert noted.add(1, 2, 2)


def test_after_a_recovery_the_newest_round_may_be_there_in_part() -> None:
    noted = Noted()
    noted.add(0, 9, 1)
    noted.staging.begin({0: 5, 1: 4})
    assert (len(noted.staging), noted.staging.nbytes, noted.staging.sent((0, 7))) == (0, 0, 0)
    assert noted.staging.missing(5, [0, 1]) == [1]
    assert not noted.add(0, 5, 2)  # applied before
    assert not noted.add(2, 4, 1)  # over
    assert noted.add(1, 5, 2)
    noted.staging.apply(5, [0, 1])
    assert noted.put == [(5, 1, 7, 2)]


# ------------------------------------------------------------------------------------------ in a table


def stage(table: ReplayTable, life: CountingLife, round_: int) -> tuple[Any, ...]:
    columns = life.unroll(T)
    sent = life.incarnation, life.seq, life.header(columns, round_), columns, SIZE
    assert table.stage(*sent)
    return sent


def numbers(table: ReplayTable) -> list[int]:
    """Of all items, oldest first."""
    keys = np.arange(table.ring.tail, table.ring.head)
    keys = keys[table.ring.alive(keys)]
    found: list[int] = table.ring.gather(keys)["reward"][1].tolist()
    return found


def test_the_order_of_arrival_does_not_matter() -> None:
    tables = []
    for order in ([0, 1, 2], [2, 0, 1]):
        table = ReplayTable.open(DEFINITION)
        lives = [CountingLife(slot, 7, B, np.random.default_rng(slot)) for slot in range(3)]
        for round_ in (1, 2):
            for slot in order:
                assert table.why_apply_waits(round_, [0, 1, 2])
                stage(table, lives[slot], round_)
            assert table.ring.items == 0 or round_ == 2
            assert table.why_apply_waits(round_, [0, 1, 2]) is None
            table.apply(round_, [0, 1, 2])
        tables.append(table)
    one, two = tables
    for name, column in one.ring.columns.items():
        np.testing.assert_array_equal(column, two.ring.columns[name])
    assert numbers(one) == numbers(two)
    assert one.stats().items > 0


def test_counters_tell_what_was_sent_and_what_is_applied() -> None:
    table = ReplayTable.open(DEFINITION)
    life = CountingLife(0, 7, B, np.random.default_rng(0))
    first = stage(table, life, 1)
    stage(table, life, 2)
    assert (table.next_seq(0, 7), table.next_seq_sent(0, 7), table.stats().staged) == (1, 3, 2)
    assert not table.stage(*first)  # resent on another connection
    assert table.stats().duplicates == 1
    assert [header.round for header in table.reports.drain()] == [1, 2]  # told when staged
    reason = table.why_apply_waits(2, [0, 1])
    assert reason == "round 2 waits for the unrolls of slots [1]: their actors must deliver"
    table.apply(1, [0])
    assert (table.next_seq(0, 7), table.next_seq_sent(0, 7), table.stats().staged) == (2, 3, 1)
    assert table.reports.drain() == []


def test_what_was_staged_is_sent_again_after_a_kill_and_what_was_applied_is_not(tmp_path: Path) -> None:
    data_dir, whole = DataDir(tmp_path, durable=False), ReplayTable.open(DEFINITION)
    table = ReplayTable.open(DEFINITION, data_dir=data_dir)
    lives = [CountingLife(slot, 7, B, np.random.default_rng(slot)) for slot in range(2)]
    for round_ in (1, 2):
        sent = [stage(table, life, round_) for life in lives]
        for unroll in sent:
            whole.stage(*unroll)
        whole.apply(round_, [0, 1])
        if round_ == 1:
            table.apply(1, [0, 1])
    incarnation, seq, _, columns, size = sent[0]
    table.ring.insert(0, incarnation, seq, columns, *size, round=2)  # killed in the middle of round 2
    data_dir.close()
    again = ReplayTable.reopen(DataDir(tmp_path, durable=False), "t")
    assert (again.next_seq_sent(0, 7), again.next_seq_sent(1, 7)) == (3, 2)
    assert not again.stage(*sent[0])
    assert again.why_apply_waits(2, [0, 1]) == "round 2 waits for the unrolls of slots [1]: their actors must deliver"
    assert again.stage(*sent[1])
    for _ in range(2):
        again.apply(2, [0, 1])
    assert numbers(again) == numbers(whole)
    assert (again.inserted, again.next_seq(0, 7), again.next_seq(1, 7)) == (whole.inserted, 3, 3)


class Actors:
    """A staged table, and what its actors send."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.table, self._rng = ReplayTable.open(DEFINITION), rng

    def life(self, slot: int, incarnation: int) -> CountingLife:
        return CountingLife(slot, incarnation, B, self._rng, end=0.0)

    def stage(self, life: CountingLife, round_: int) -> bool:
        columns = life.unroll(T)
        return self.table.stage(life.incarnation, life.seq, life.header(columns, round=round_), columns, SIZE)

    def windows(self) -> Columns:
        ring = self.table.ring
        keys = np.arange(ring.tail, ring.head)
        return ring.gather(keys[ring.alive(keys)])


def test_a_replaced_actors_rows_are_never_the_past_of_its_successors(rng: np.random.Generator) -> None:
    actors = Actors(rng)
    dead, heir = actors.life(0, 1), actors.life(0, 2)
    actors.stage(dead, 0)
    actors.table.end_life(0, 1)  # the successor's stream begins
    actors.stage(heir, 0)
    actors.table.apply(0, [0])
    actors.stage(heir, 1)
    actors.table.apply(1, [0])
    windows = actors.windows()
    assert set((windows["reward"][1] // 10**8).tolist()) == {1002}  # nothing of the dead one
    np.testing.assert_array_equal(windows["obs"][2], windows["obs"][1] + 1)
    assert (windows["obs"][1, :, 0] == windows["reward"][1]).all()
    assert actors.table.stats().lives == actors.table.ring.open_blocks == 1


def test_a_life_that_ended_while_it_was_staged_is_over_when_its_round_is_in(rng: np.random.Generator) -> None:
    actors = Actors(rng)
    dead, heir = actors.life(0, 1), actors.life(0, 2)
    actors.stage(dead, 0)
    actors.table.end_life(0, 1)
    actors.table.apply(0, [0])  # the successor was too slow
    assert actors.table.inserted == T * B
    assert not actors.stage(heir, 0)
    actors.stage(heir, 1)
    actors.table.apply(1, [0])
    assert (actors.table.stats().lives, actors.table.ring.open_blocks) == (1, 1)
    assert actors.table.ring.lives().keys() == {(0, 2)}
    np.testing.assert_array_equal(actors.windows()["obs"][2], actors.windows()["obs"][1] + 1)


def test_a_new_listener_is_told_all_that_is_staged(rng: np.random.Generator) -> None:
    actors = Actors(rng)
    lives = [actors.life(slot, 1) for slot in range(2)]
    for life in lives:
        actors.stage(life, 0)
    assert [h.slot for h in actors.table.reports.drain()] == [0, 1]
    assert not actors.table.reports.any
    actors.table.tell_staged_again()
    actors.stage(lives[0], 1)
    assert [(h.slot, h.round) for h in actors.table.reports.drain()] == [(0, 0), (1, 0), (0, 1)]
