"""replay_server/data_dir.py: one server, one format, whole tables or none."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, ReplayError
from replay_server.data_dir import FORMAT, DataDir, read_definition
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from tests.unit.counting import CountingLife, signature

DEFINITION = ReplayDefinition("t", signature(4, 3), 500, 8, 2, 20, 0.0, 1, 2, 1)
HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.pwrite(fd, b"%d\\n" % os.getpid(), 0)
print("held", flush=True)
sys.stdin.read()
"""


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_running_server_is_told_and_its_end_frees_the_directory(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError) as caught:
            DataDir(tmp_path, durable=False)
        assert str(caught.value) == (
            f"the data directory {tmp_path} is locked by a running replay server (process {holder.pid}): stop that "
            "one, or give another --data-dir"
        )
        assert names(tmp_path) == ["lock"]
        holder.kill()
    DataDir(tmp_path, durable=False).close()


def test_one_at_a_time_and_close_lets_go(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "a" / "b", durable=False)
    with pytest.raises(ConfigError, match=rf"process {os.getpid()}\)"):
        DataDir(tmp_path / "a" / "b", durable=False)
    first.close()
    first.close()
    second = DataDir(tmp_path / "a" / "b", durable=False)
    first.close()
    with (tmp_path / "a" / "b" / "lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second.close()


def test_a_refused_directory_is_not_left_locked(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("shoal replay tables, version 1\n")
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            DataDir(tmp_path, durable=False)
        assert "is of format b'shoal replay tables, version 1\\n', this version reads" in str(caught.value)
        assert "use the version of Shoal that made it, or give another --data-dir" in str(caught.value)
    (tmp_path / "format").write_text(FORMAT)
    DataDir(tmp_path, durable=False).close()


def test_killed_before_its_format_was_written_a_directory_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    for call in ("fsync", "rename"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, killed)
            with pytest.raises(KeyboardInterrupt):
                DataDir(tmp_path, durable=True)
        assert names(tmp_path) == [".format", "lock"]
    DataDir(tmp_path, durable=True).close()
    assert names(tmp_path) == ["format", "lock"]
    assert (tmp_path / "format").read_text() == FORMAT


def test_a_folder_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    for name in ("thesis.tex", "photos", "x", "y"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"holds photos, thesis\.tex, x and no file `format`: give an empty folder"):
        DataDir(tmp_path, durable=False)
    assert names(tmp_path) == ["lock", "photos", "thesis.tex", "x", "y"]
    with pytest.raises(ConfigError, match=r"cannot be used: .*(Not a directory|File exists)"):
        DataDir(tmp_path / "x", durable=False)


def test_leftovers_of_a_table_that_was_being_made_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = DataDir(tmp_path, durable=False)
    (first.begin("t") / "column.obs").write_bytes(b"half")
    assert first.tables() == []
    first.close()
    with caplog.at_level(logging.WARNING):
        second = DataDir(tmp_path, durable=False)
    assert ".new-t is left of a table that was being made when its server ended: it is removed" in caplog.text
    assert names(tmp_path) == ["format", "lock"]
    assert second.tables() == []
    ReplayTable.open(DEFINITION, data_dir=second)
    assert second.tables() == ["t"]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("after", range(6))
def test_a_disk_that_is_full_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, after: int
) -> None:
    """There is room for `after` files, and the table has 6."""
    data_dir, made, real = DataDir(tmp_path, durable=durable), list[int](), os.posix_fallocate

    def reserve(fd: int, offset: int, size: int) -> None:
        if len(made) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(size)
        real(fd, offset, size)

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(ConfigError, match="No space left on device; free space or lower the capacity"):
        ReplayTable.open(DEFINITION, data_dir=data_dir)
    assert len(made) == after
    assert names(tmp_path) == ["format", "lock"]
    gc.collect()  # the error held the mappings, and they a descriptor each
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    assert ReplayTable.open(DEFINITION, data_dir=data_dir).stats().items == 0


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_is_full_at_the_last_moment_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    data_dir = DataDir(tmp_path, durable=True)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ConfigError, match=r"table 't' cannot be made in .*No space left on device"):
        ReplayTable.open(DEFINITION, data_dir=data_dir)
    assert names(tmp_path) == ["format", "lock"]


@pytest.mark.parametrize("name", ["../t", "a/b", "", ".new-t", "x" * 300, "a\0", "ü"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    data_dir = DataDir(tmp_path / "d", durable=False)
    with pytest.raises(ConfigError, match="cannot be a table's name"):
        ReplayTable.open(replace(DEFINITION, name=name), data_dir=data_dir)
    assert names(tmp_path / "d") == ["format", "lock"]
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("name", ["lock", "format", "t"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    data_dir = DataDir(tmp_path, durable=False)
    ReplayTable.open(DEFINITION, data_dir=data_dir)
    with pytest.raises(ConfigError, match=f"{name} exists and is no table of this server: take another name"):
        ReplayTable.open(replace(DEFINITION, name=name), data_dir=data_dir)
    assert (names(tmp_path), data_dir.tables()) == (["format", "lock", "t"], ["t"])


def test_a_definition_comes_back_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path, durable=True)
    ReplayTable.open(DEFINITION, data_dir=data_dir)
    path = data_dir.folder("t") / "definition.json"
    assert read_definition(path.parent) == DEFINITION
    for damaged in (path.read_bytes()[:-5], b"{}", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"definition\.json cannot be read"):
            ReplayTable.reopen(data_dir, "t")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_change_that_the_disk_does_not_take_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    table = ReplayTable.open(DEFINITION, data_dir=DataDir(tmp_path, durable=True))

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(ReplayError, match=r"definition cannot be written in .*No space left on device; free space"):
            table.adopt(replace(DEFINITION, min_size=30))
    assert (table.definition, table.limiter.min_size, table.ring.layout.min_size) == (DEFINITION, 20, 20)
    assert read_definition(tmp_path / "t") == DEFINITION


def test_a_file_of_another_size_is_told(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path, durable=True)
    table = ReplayTable.open(DEFINITION, data_dir=data_dir)
    life = CountingLife(0, 7, 3, np.random.default_rng(0))
    columns = life.unroll(4)
    table.insert(7, 1, life.header(columns), columns, (4, 3))
    with (tmp_path / "t" / "column.reward").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match=r"column\.reward has 4,004 bytes, its table's definition needs 4,000"):
        ReplayTable.reopen(data_dir, "t")
