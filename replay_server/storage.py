"""Where a ring's arrays live: anonymous memory, or memory-mapped files in a directory. Used by ring.py alone."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from core.errors import ConfigError
from core.types import Array

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


class Allocator(Protocol):
    """Gives zeroed arrays by name. Names come from clients (columns), so an allocator that makes files checks them."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A zeroed array. ConfigError when there is no room for it."""
        ...


class MemoryAllocator:
    """Anonymous memory: gone with the process. Pages are taken when they are first written."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A zeroed array. ConfigError when there is no room for it."""
        try:
            return np.zeros(shape, dtype)
        except MemoryError as error:
            raise ConfigError(
                f"no memory for {name!r}: {dtype}{list(shape)}; lower the table's capacity ({error})"
            ) from error


class FileAllocator:
    """One memory-mapped file an array, in `directory`. Written pages outlive the process, whatever ends it.

    Space is reserved when a file is made, so that a full disk is an error here and never a SIGBUS at a later store.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the data directory {self.directory} cannot be made: {error}") from error

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A zeroed array in the new file `name`. ConfigError when the file exists or there is no room for it."""
        if not FILE_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a file name: use letters, digits, '_', '-' and '.', at most 200")
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        path = self.directory / name
        try:
            mapped = _map_new(path, size)
        except FileExistsError as error:
            raise ConfigError(f"{path} exists: give the table an empty data directory") from error
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be made with {size} bytes: {error}; free space or lower the capacity"
            ) from error
        array: Array = np.frombuffer(mapped, kind).reshape(shape)
        return array


def _map_new(path: Path, size: int) -> Any:
    """The new file at `path`, reserved and mapped; nothing is left behind when that fails."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)
