"""Where a ring's arrays live: anonymous memory, or memory-mapped files in a directory. Used by ring_files.py alone."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from core.errors import ConfigError
from core.types import Array

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


class Allocator(Protocol):
    """Gives arrays by name. Names come from clients (columns), so an allocator that makes files checks them."""

    existing: bool
    """Whether the arrays hold what an earlier process wrote; else they are zeroed."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array. ConfigError when there is no room for it, or another one under that name."""
        ...

    def sync(self) -> None:
        """Return when everything that was stored before this call is on the disk, where there is one."""
        ...


class MemoryAllocator:
    """Anonymous memory: gone with the process. Pages are taken when they are first written."""

    existing = False

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A zeroed array. ConfigError when there is no room for it."""
        try:
            return np.zeros(shape, dtype)
        except (MemoryError, ValueError) as error:  # the latter: more than an array can have
            raise ConfigError(
                f"no memory for {name!r}: {dtype}{list(shape)}; lower the table's capacity ({error})"
            ) from error

    def sync(self) -> None:
        """Nothing to do."""


class FileAllocator:
    """One memory-mapped file an array, in `directory`. Written pages outlive the process, whatever ends it.

    Space is reserved when a file is made, so that a full disk is an error here and never a SIGBUS at a later store.
    With `existing` the files are there already and are mapped as they are; with `private` stores do not reach them.
    """

    def __init__(self, directory: str | os.PathLike[str], *, existing: bool = False, private: bool = False) -> None:
        self.directory, self.existing = Path(directory), existing or private
        self._access = mmap.ACCESS_COPY if private else mmap.ACCESS_WRITE
        self._files: list[int] = []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the data directory {self.directory} cannot be made: {error}") from error

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """The array of file `name`. ConfigError: no room, a file where none should be, or one of another size."""
        if not FILE_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a file name: use letters, digits, '_', '-' and '.', at most 200")
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        path = self.directory / name
        try:
            fd = _open(path, size) if self.existing else _make(path, size)
        except FileExistsError as error:
            raise ConfigError(f"{path} exists: give the table an empty data directory") from error
        except (OSError, OverflowError) as error:
            what = "opened" if self.existing else "made"
            raise ConfigError(
                f"{path} cannot be {what} with {size:,} bytes: {error}; free space or lower the capacity"
            ) from error
        self._files.append(fd)
        array: Array = np.frombuffer(mmap.mmap(fd, size, access=self._access), kind).reshape(shape)
        return array

    def sync(self) -> None:
        """Return when everything that was stored before this call is on the disk."""
        for fd in self._files:
            os.fdatasync(fd)

    def close(self) -> None:
        """Let go of the files; arrays stay mapped while somebody holds them. Idempotent."""
        while self._files:
            os.close(self._files.pop())


def _make(path: Path, size: int) -> int:
    """The new file at `path`, its space reserved; nothing is left behind when that fails."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except (OSError, OverflowError):
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return fd


def _open(path: Path, size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    found = os.fstat(fd).st_size
    if found != size:
        os.close(fd)
        raise ConfigError(f"{path} has {found:,} bytes, its table's definition needs {size:,}: the folder is damaged")
    return fd
