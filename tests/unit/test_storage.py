"""replay_server/storage.py: arrays in memory and in files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from core.errors import ConfigError
from replay_server.storage import FileAllocator, MemoryAllocator


def test_files_are_new_and_names_are_names(tmp_path: Path) -> None:
    files = FileAllocator(tmp_path / "a" / "b")
    array = files.allocate("column.obs", (3, 2), "float32")
    array[:] = 7
    assert np.fromfile(tmp_path / "a" / "b" / "column.obs", np.float32).tolist() == [7.0] * 6
    with pytest.raises(ConfigError, match="exists: give the table an empty data directory"):
        files.allocate("column.obs", (3, 2), "float32")
    for name in ("../x", "a/b", "", ".hidden", "x" * 300, "a\0"):
        with pytest.raises(ConfigError, match="cannot be a file name"):
            files.allocate(name, (1,), "uint8")
    with pytest.raises(ConfigError, match="cannot be made"):
        FileAllocator(tmp_path / "a" / "b" / "column.obs")


def test_a_full_disk_is_an_error_at_creation(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch.object(os, "posix_fallocate", side_effect=full), pytest.raises(ConfigError, match="No space left"):
        FileAllocator(tmp_path).allocate("x", (8,), "int64")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no memory for 'x'"):
        MemoryAllocator().allocate("x", (1 << 60,), "uint8")
    with pytest.raises(
        ConfigError, match=r"no memory for 'x': float32\[1152921504606846976, 4\]; lower the table's capac"
    ):
        MemoryAllocator().allocate("x", (1 << 60, 4), "float32")


def test_a_file_that_no_disk_can_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"x cannot be made with 18,446,744,073,709,551,616 bytes: .*lower the capacity"
    ):
        FileAllocator(tmp_path).allocate("x", (1 << 60, 4), "float32")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_mapped_as_they_are_and_private_stores_stay_private(tmp_path: Path) -> None:
    FileAllocator(tmp_path).allocate("x", (4,), "int64")[:] = (1, 2, 3, 4)
    shared = FileAllocator(tmp_path, existing=True).allocate("x", (4,), "int64")
    private = FileAllocator(tmp_path, private=True).allocate("x", (4,), "int64")
    assert shared.tolist() == private.tolist() == [1, 2, 3, 4]
    private[0] = 9
    shared[1] = 8
    assert np.fromfile(tmp_path / "x", np.int64).tolist() == [1, 8, 3, 4]


def test_files_of_another_size_or_none_are_refused(tmp_path: Path) -> None:
    FileAllocator(tmp_path).allocate("x", (4,), "int64")
    files = FileAllocator(tmp_path, existing=True)
    with pytest.raises(ConfigError, match="x has 32 bytes, its table's definition needs 40: the folder is damaged"):
        files.allocate("x", (5,), "int64")
    with pytest.raises(ConfigError, match=r"cannot be opened with 8 bytes: .*No such file"):
        files.allocate("y", (1,), "int64")
    files.close()
    files.close()


def test_arrays_outlive_the_allocator_and_sync_reaches_every_file(tmp_path: Path) -> None:
    files = FileAllocator(tmp_path)
    arrays = [files.allocate(name, (2,), "int64") for name in ("x", "y")]
    with mock.patch.object(os, "fdatasync") as synced:
        files.sync()
    assert synced.call_count == 2
    files.close()
    arrays[1][:] = 5
    assert np.fromfile(tmp_path / "y", np.int64).tolist() == [5, 5]
