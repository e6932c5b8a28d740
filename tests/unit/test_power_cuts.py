"""replay_server/{mark,manifest,table_folder}.py: what a power cut leaves of a table."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import pytest

from core.errors import ReplayError
from replay_server.mark import LINE_BYTES, Mark
from replay_server.ring_files import BOOT
from tests.unit.dying_server import CAPACITY, B, DyingServer, T


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


def test_on_a_first_lap_a_power_cut_loses_nothing_of_the_manifest(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    server.send(10)
    items = server.items()
    server.table.folder.checkpoint(None)()
    server.send(10)
    server.restart(power_cut=True)
    assert server.items() == items


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
