"""replay_server/{manifest,table_folder}.py: what a damaged file or a rollback leaves of a table."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, ReplayError
from replay_server.data_dir import DataDir
from replay_server.manifest import MOST_KEPT_ROUNDS, Manifests, read, take
from replay_server.ring_files import RESTORING, RingFiles
from replay_server.service import ExperienceService
from tests.unit.dying_server import DyingServer


def file_of(server: DyingServer, number: int, kind: str = "") -> Path:
    return server.folder / f"manifest-{number:012d}{kind}"


def kept(server: DyingServer) -> list[str]:
    return sorted(path.name for path in server.folder.glob("manifest-*"))


@pytest.mark.parametrize("round_", [None, 4])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, round_: int | None) -> None:
    server = DyingServer(tmp_path)
    server.send(700)
    server.table.sample(16, server.rng)
    taken = take(server.table.ring, 7, round_)
    Manifests(server.folder).write(taken)
    assert read(file_of(server, 7, "" if round_ is None else f"-round{round_}")) == taken
    ring = server.table.ring
    assert (taken.tail, taken.head, taken.evicted, taken.sampled) == (ring.tail, ring.head, ring.evicted, 16)
    assert taken.items == ring.items
    assert (taken.priority is None) == (round_ is None)
    assert not list(server.folder.glob(".manifest*"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "has CRC [0-9a-f]{8}, it says [0-9a-f]{8}"),
        (lambda data: data[:-1], "has CRC"),
        (lambda data: data[:-100], "it says [0-9a-f]{8}: it is damaged"),
        (lambda data: data[:12], "is no manifest of this version: it begins with b'shoal-m1', 12 bytes"),
        (lambda data: b"", "is no manifest of this version: it begins with b'', 0 bytes"),
        (lambda data: b"shoal-m0" + data[8:], "is no manifest of this version: it begins with b'shoal-m0'"),
    ],
)
def test_a_damaged_manifest_is_skipped_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], told: str
) -> None:
    server = DyingServer(tmp_path)
    server.send(5)
    server.table.folder.checkpoint(None)()
    one = server.items()
    server.send(5)
    server.table.folder.checkpoint(None)()
    two = server.items()
    server.send(5)
    path = file_of(server, 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ReplayError, match=told):
        read(path)
    with caplog.at_level(logging.WARNING):
        server.restart(power_cut=True)
    assert server.items() == one != two
    assert "the manifest before it is taken" in caplog.text
    assert str(path) in caplog.text
    assert "it is as manifest 1 says" in caplog.text


def test_two_of_each_kind_are_kept(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    for n in range(8):
        server.table.folder.checkpoint(n if n % 2 else None)()
    assert kept(server) == [
        f"manifest-{n:012d}{kind}" for n, kind in ((5, ""), (6, "-round5"), (7, ""), (8, "-round7"))
    ]
    server.table.folder.checkpoint(None)()
    assert kept(server)[0] == "manifest-000000000006-round5"
    assert Manifests(server.folder).rounds() == [5, 7]
    assert Manifests(server.folder).next_number == 10


def test_those_that_checkpoints_go_back_to_are_kept(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    folder = server.table.folder
    for round_ in (3, 6):
        folder.checkpoint(round_)()
    for round_ in range(9, 18, 3):  # their checkpoints could not be written
        folder.checkpoint(round_, keep=[3, 6])()
    assert Manifests(server.folder).rounds() == [3, 6, 12, 15]
    folder.checkpoint(18, keep=range(100, 200))()
    assert Manifests(server.folder).rounds() == [15, 18]
    folder.checkpoint(21, keep=range(100))()
    for round_ in range(1000, 1030):
        folder.checkpoint(round_, keep=range(1000, 1030))()
    assert len(Manifests(server.folder).rounds()) <= MOST_KEPT_ROUNDS + 2


@pytest.mark.parametrize("durable", [False, True])
def test_a_rollback_is_exact_and_forgets_the_future(tmp_path: Path, durable: bool) -> None:
    server = DyingServer(tmp_path, durable=durable)
    server.send(10)
    keys = server.table.sample(16, server.rng).keys
    server.table.update_priorities(keys, np.arange(16) / 3)
    before, items, epoch = server.table.stats(), server.items(), server.table.epoch
    server.table.folder.checkpoint(3)()
    server.send(10)
    server.table.folder.checkpoint(None)()
    server.table.folder.checkpoint(5)()
    server.table.update_priorities(keys, np.ones(16))
    server.restart()
    assert server.table.rollback(3) == 0
    assert server.items() == items
    assert replace(server.table.stats(), unknown_keys=before.unknown_keys) == before
    assert (server.table.inserted, server.table.sampled) == (before.inserted, 16)
    assert server.table.epoch != epoch
    assert server.table.next_seq(0, 7) == 11
    assert kept(server) == ["manifest-000000000001-round3"]
    with pytest.raises(ReplayError, match=r"'t' has no manifest of round 5; there are those of rounds \[3\]"):
        server.table.rollback(5)
    server.send(3)
    server.restart()
    assert server.items().items() > items.items()


@pytest.mark.parametrize("end", ["none", "killed", "closed", "power cut"])
def test_what_was_written_over_stays_lost_in_a_second_rollback(tmp_path: Path, end: str) -> None:
    server = DyingServer(tmp_path)
    server.send(640)
    items = server.items()
    server.table.folder.checkpoint(3)()
    server.send(200)  # over blocks of round 3
    lost = server.table.rollback(3)
    first = server.items()
    assert 0 < lost == len(items) - len(first)
    assert first.items() < items.items()
    server.send(2)
    if end == "closed":
        server.table.close()
    if end != "none":
        server.restart(power_cut=end != "killed")
    server.table.rollback(3)
    again = server.items()  # it checks the windows
    if end == "power cut":  # the mark is further than what was written
        assert 0 < len(again) < len(first)
        assert again.items() < first.items()
    else:
        assert again == first


def test_killed_in_the_middle_of_a_rollback_it_is_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = DyingServer(tmp_path)
    server.send(10)
    items = server.items()
    server.table.folder.checkpoint(3)()
    server.send(10)

    def killed(files: RingFiles, tail: int, evicted: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RingFiles, "record_eviction", killed)
    with pytest.raises(KeyboardInterrupt):
        server.table.rollback(3)
    monkeypatch.undo()
    assert server.table.ring.files.header[RESTORING] == 1
    server.restart()
    assert server.items() == items
    assert server.table.ring.files.header[RESTORING] == 0
    server.table.ring.files.header[RESTORING] = 1
    path = file_of(server, 1, "-round3")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="was going back to manifest 1 when its server ended") as caught:
        server.restart()
    damaged, advice = caught.value.problems
    assert damaged.startswith(f"{path} has CRC")
    assert advice.endswith(f"that is not there: move {server.folder} away to start without it")


@pytest.mark.parametrize("call", ["fsync", "rename", "fdatasync"])
def test_a_manifest_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    server = DyingServer(tmp_path)
    server.send(5)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        write = server.table.folder.checkpoint(None)
        with pytest.raises(ReplayError, match=rf"{server.folder}: .*No space left on device; free space there"):
            write()
    assert not list(server.folder.glob(".manifest*"))
    assert kept(server) == []
    server.table.folder.checkpoint(None)()
    assert kept(server) == ["manifest-000000000002"]


def test_a_manifest_of_a_server_that_was_killed_meanwhile_is_removed(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    (server.folder / ".manifest-000000000007").write_bytes(b"half")
    server.restart()
    assert not list(server.folder.glob(".manifest*"))


def test_a_folder_says_when_its_newest_manifest_was_written(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    assert server.table.folder.newest_manifest_s is None
    for number, kind, written_s in ((1, "", 1000.0), (2, "-round5", 2000.5)):
        server.table.folder.checkpoint(5 if kind else None)()
        os.utime(file_of(server, number, kind), (0, written_s))
        server.restart()
        assert server.table.folder.newest_manifest_s == written_s


def test_files_that_are_no_ring_are_refused(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    server.send(10)
    server.table.ring.files.blocks[0, 1] = 7999  # it would cross the end
    with pytest.raises(ConfigError, match="blocks are damaged: the block at position 7999: it crosses the end"):
        server.restart()


def test_the_age_of_the_last_manifest_outlives_the_server(tmp_path: Path) -> None:
    server = DyingServer(tmp_path)
    server.send(2)
    server.table.folder.checkpoint(None)()
    for manifest in server.folder.glob("manifest-*"):
        os.utime(manifest, (time.time() - 500, time.time() - 500))
    server.data_dir.close()
    service = ExperienceService(data_dir=DataDir(tmp_path, durable=True))
    service.recover()
    (hosted,) = service.replay_tables()
    assert 500 <= hosted.figures()["manifest_age_s"] < 560
