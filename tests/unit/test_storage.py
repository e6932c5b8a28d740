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
