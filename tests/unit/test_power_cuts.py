"""replay_server/{mark,manifest,table_folder}.py: what a power cut leaves of a table."""

from __future__ import annotations

import logging
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ReplayError
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.mark import LINE_BYTES, Mark
from replay_server.replay import ReplayTable
from replay_server.ring_files import BOOT, ROWS
from replay_server.verify import run as verify
from tests.unit.counting import CountingLife, signature
from tests.unit.dying_server import CAPACITY, DEFINITION, B, DyingServer, T, move_mark

LARGE_BLOCKS = replace(DEFINITION, signature=signature(8, 64), capacity=100_000, writers=4)  # an eighth of the ring
HUGE_BLOCKS = replace(DEFINITION, signature=signature(4, 8), capacity=2000)  # nearly half of it
STAGED = replace(DEFINITION, signature=signature(20, 8), sampler="uniform", staged=True)
LONG_UNROLLS = replace(DEFINITION, signature=signature(130, 1), capacity=1021)  # blocks of shorter ones are larger


def test_after_a_power_cut_only_what_may_be_written_over_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = DyingServer(tmp_path)
    server.send(640)
    items = server.items()
    epoch = server.table.epoch
    server.table.folder.checkpoint(None)()
    server.send(60)
    mark = Mark(server.folder).position
    assert mark > server.table.ring.head > CAPACITY
    with caplog.at_level(logging.WARNING):
        server.restart(power_cut=True)
    starts = [block.start for block in server.table.ring._order]
    left = server.items()
    assert 0 < len(left) < len(items)
    assert min(starts) >= mark - CAPACITY
    assert left == {key: item for key, item in items.items() if key >= min(starts)}
    assert f"{len(left)} items, without {len(items) - len(left)} whose rows may have been overwritten" in caplog.text
    assert (server.table.epoch != epoch, server.table.next_seq(0, 7)) == (True, 641)
    assert server.table.ring.inserted == server.table.ring.evicted + len(left)
    server.send(5)


@pytest.mark.parametrize("definition", [DEFINITION, LARGE_BLOCKS])
def test_on_a_first_lap_a_power_cut_loses_nothing_of_the_manifest(tmp_path: Path, definition: ReplayDefinition) -> None:
    server = DyingServer(tmp_path, definition=definition)
    while server.table.ring.head < 0.95 * definition.capacity:
        server.send(1)
    items = server.items()
    server.table.folder.checkpoint(None)()
    server.send(10)
    server.restart(power_cut=True)
    assert server.items() == items


@pytest.mark.parametrize(
    ("definition", "rows"),
    [(DEFINITION, T), (LARGE_BLOCKS, 8), (HUGE_BLOCKS, 4), (LONG_UNROLLS, 103), (LONG_UNROLLS, 130)],
)
def test_the_mark_is_never_far_ahead_and_nobody_waits_for_ever(
    tmp_path: Path, definition: ReplayDefinition, rows: int
) -> None:
    server = DyingServer(tmp_path, definition=definition)
    ring, cells, largest = server.table.ring, definition.capacity, 0
    while ring.head < 3 * cells:
        head = ring.head
        server.send(1, rows)
        assert ring.reuse_limit is not None
        assert ring.head <= ring.reuse_limit
        largest = max(largest, ring.head - head)  # with the end of the ring that is skipped
        assert ring.reuse_limit == cells or ring.reuse_limit - head <= max(cells // 4, largest + cells // 8)
    assert Mark(server.folder).position == ring.reuse_limit


def test_a_table_that_was_closed_is_whole_after_a_power_cut(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    server.send(700)
    items, cut = server.items(), server.table.ring.files.header
    server.table.close()
    cut[BOOT] += 1
    server.restart()
    assert server.items() == items
    reason = server.table.why_insert_waits(0, 7, T, B, T * B)
    while reason is None:  # the block that is open still has room
        columns = server.life.unroll(T)
        server.table.insert(7, server.life.seq, server.life.header(columns), columns, (T, B))
        reason = server.table.why_insert_waits(0, 7, T, B, T * B)
    assert "wait for the disk, which allows" in reason
    server.send(50)


def test_a_round_waits_for_the_mark_only_where_it_needs_blocks(tmp_path: Path) -> None:
    definition = replace(STAGED, capacity=10_000, writers=2)
    table = ReplayTable.open(definition, data_dir=DataDir(tmp_path, durable=True))
    lives = [CountingLife(slot, 7, 8, np.random.default_rng(slot)) for slot in range(5)]  # more than was said
    slots, waits = range(5), 0

    def stage(round_: int) -> None:
        for life in lives:
            columns = life.unroll(20)
            table.stage(life.incarnation, life.seq, life.header(columns, round_), columns, (20, 8))

    for round_ in range(60):
        stage(round_)
        if round_ == 40:  # an actor is replaced while an unroll of its life is staged
            table.end_life(3, 7)
            lives[3] = CountingLife(3, 8, 8, np.random.default_rng(9))
        reason = table.why_apply_waits(round_, slots)
        if reason is not None:
            waits += 1
            assert f"round {round_} waits: positions up to" in reason
            assert move_mark(table)
            assert table.why_apply_waits(round_, slots) is None
        table.apply(round_, slots)
        assert table.ring.reuse_limit is not None
        assert table.ring.head <= table.ring.reuse_limit
    assert table.ring.head > 3 * 10_000
    assert 10 < waits < 40


@pytest.mark.parametrize("durable", [False, True])
def test_without_a_manifest_a_power_cut_leaves_an_empty_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, durable: bool
) -> None:
    server = DyingServer(tmp_path, durable=durable)
    server.send(10)
    if not durable:
        server.table.folder.checkpoint(3)()
    with caplog.at_level(logging.WARNING):
        server.restart(power_cut=True)
    why = "there is no manifest" if durable else "its folder is not for that"
    assert f"the machine was started anew and {why}: it is empty" in caplog.text
    assert (server.items(), server.table.stats().inserted, server.table.next_seq(0, 7)) == ({}, 0, 1)
    with pytest.raises(ReplayError, match=r"has no manifest of round 3; there are those of rounds \[\]"):
        server.table.rollback(3)
    server.send(10)
    server.restart()
    assert server.items()


def test_without_a_mark_that_can_be_read_no_manifest_is_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = DyingServer(tmp_path)
    server.send(700)
    server.table.folder.checkpoint(None)()
    (server.folder / "mark").write_bytes(b"\0" * 2 * LINE_BYTES)
    server.data_dir.close()
    told, code = verify(tmp_path)
    assert code == 1
    assert "table t: DAMAGED: the file `mark` cannot be read: after a power cut the table will be empty" in told
    with caplog.at_level(logging.WARNING):
        server.restart(power_cut=True)
    assert "started anew and its file `mark` cannot be read, so no manifest is believed: it is empty" in caplog.text
    assert (server.items(), Mark(server.folder).position) == ({}, CAPACITY)
    server.send(10)
    items = server.items()
    server.restart(power_cut=True)
    assert server.items() == {}  # nor is the manifest of before
    server.send(10)
    server.table.folder.checkpoint(None)()
    server.restart(power_cut=True)
    assert server.items().keys() == items.keys()


def test_verify_says_what_the_next_server_goes_back_to(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    server.send(640)
    items = server.items()
    server.table.folder.checkpoint(None)()
    server.send(60)
    lines = server.table.ring.files.blocks
    lines[server.table.ring._order[-1].number, ROWS] = 0  # a line that came to the disk in part
    lines[server.table.ring._order[0].number, ROWS] = 1000
    server.data_dir.close()
    told, code = verify(tmp_path)
    assert (code, told[-1]) == (1, "1 tables, 3 problems")
    assert any("DAMAGED: the ring's blocks are damaged" in line for line in told)
    server.table.ring.files.header[BOOT] += 1
    before = {path.name: path.read_bytes() for path in server.folder.iterdir()}
    told, code = verify(tmp_path)
    assert (code, told[-1]) == (0, "1 tables, 0 problems")
    assert {path.name: path.read_bytes() for path in server.folder.iterdir()} == before
    server.restart()
    left = len(server.items())
    assert 0 < left < len(items)
    assert told[0].startswith(f"table t: {left:,} items (prioritised) in ")
    assert told[2] == (
        "table t: the next server goes back first: the machine was started anew; it is as manifest 1 says, "
        f"{left} items, without {len(items) - left} whose rows may have been overwritten since"
    )


def test_of_two_marks_the_newest_whole_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Mark(tmp_path)
    assert mark.position == 0
    for position in (100, 200, 300):
        mark.write(position)
    data = bytearray((tmp_path / "mark").read_bytes())
    assert Mark(tmp_path).position == 300
    torn = data.copy()
    torn[LINE_BYTES : LINE_BYTES + 8] = struct.pack("<Q", 4)  # the third line: a count, and not its sum
    (tmp_path / "mark").write_bytes(torn)
    again = Mark(tmp_path)
    assert again.position == 200
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda fd, line, at: (_ for _ in ()).throw(OSError("I/O error")))
        with pytest.raises(OSError, match="I/O error"):
            again.write(400)
    assert again.position == 200
    again.write(500)  # over the torn line, never over the one that is whole
    assert Mark(tmp_path).position == 500
    (tmp_path / "mark").write_bytes((tmp_path / "mark").read_bytes()[:LINE_BYTES])
    assert Mark(tmp_path).position == 200
