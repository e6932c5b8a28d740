"""A replay server's data directory: one folder a table, held by one server at a time.

lock                  of the server that runs here, with its process id
format                the version of everything below
TABLE/definition.json, column.*, priority, times, blocks, writers, header, mark, manifest-*
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from pathlib import Path

from core.errors import CodecError, ConfigError, ReplayError
from replay_server.definition import ReplayDefinition
from replay_server.manifest import sync_folder
from replay_server.storage import FILE_NAME

FORMAT = "shoal replay tables, version 3\n"
DEFINITION = "definition.json"
_NEW = ".new-"
logger = logging.getLogger(__name__)


class DataDir:
    """The lock and the folders. `durable`: it is on a disk, and what a power cut leaves of it must make sense.

    Raises ConfigError where another server holds it, or another version made it.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool) -> None:
        self.path, self.durable = Path(path), durable
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the data directory {self.path} cannot be used: {error}") from error
        try:
            self._take_lock()
            self._check_format()
        except BaseException:
            os.close(self._lock)
            raise
        for left in self.path.glob(f"{_NEW}*"):
            logger.warning("%s is left of a table that was being made when its server ended: it is removed", left)
            shutil.rmtree(left)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"the data directory {self.path} is locked by a running replay server (process {holder}): "
                "stop that one, or give another --data-dir"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _check_format(self) -> None:
        path = self.path / "format"
        if not path.exists():
            ours = ("lock", "owner", ".format")
            strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
            if strangers:
                raise ConfigError(
                    f"the data directory {self.path} holds {', '.join(strangers[:3])} and no file `format`: "
                    "give an empty folder"
                )
            _replace(path, FORMAT, durable=self.durable)
        elif path.read_bytes() != FORMAT.encode():
            raise ConfigError(
                f"the data directory {self.path} is of format {path.read_bytes()[:80]!r}, this version reads "
                f"{FORMAT.encode()!r}: use the version of Shoal that made it, or give another --data-dir"
            )

    def tables(self) -> list[str]:
        """The names of the tables that are here."""
        return sorted(path.parent.name for path in self.path.glob(f"*/{DEFINITION}"))

    def folder(self, table: str) -> Path:
        """Of one table."""
        return self.path / table

    def begin(self, table: str) -> Path:
        """An empty folder for a new table's files, which becomes `folder(table)` by `commit`. Raises ConfigError."""
        if not FILE_NAME.fullmatch(table):
            raise ConfigError(f"{table!r} cannot be a table's name: use letters, digits, '_', '-' and '.', at most 200")
        if self.folder(table).exists():
            raise ConfigError(f"{self.folder(table)} exists and is no table of this server: take another name")
        path = self.path / f"{_NEW}{table}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def commit(self, table: str, definition: ReplayDefinition) -> None:
        """The files are complete: the table is there from now on, whatever happens."""
        path = self.path / f"{_NEW}{table}"
        write_definition(path, definition, durable=self.durable)
        os.rename(path, self.folder(table))
        if self.durable:
            sync_folder(self.path)

    def abandon(self, table: str) -> None:
        """The files could not be made."""
        shutil.rmtree(self.path / f"{_NEW}{table}", ignore_errors=True)

    def drop(self, table: str) -> Path:
        """The table is gone, whatever happens from now on; returns what is left to be removed. Raises ReplayError."""
        left = self.path / f"{_NEW}{table}"
        try:
            self.abandon(table)
            os.rename(self.folder(table), left)
        except OSError as error:
            raise ReplayError(
                f"table {table!r} cannot be removed from {self.path}: {error}; mend that folder"
            ) from error
        return left

    def close(self) -> None:
        """Let another server in; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def write_definition(folder: Path, definition: ReplayDefinition, *, durable: bool) -> None:
    """Return when the disk has it, where it is `durable`."""
    _replace(folder / DEFINITION, json.dumps(definition.to_plain(), indent=1), durable=durable)


def _replace(path: Path, text: str, *, durable: bool) -> None:
    """As a whole: a file is never there in part."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    if durable:
        sync_folder(path.parent)


def read_definition(folder: Path) -> ReplayDefinition:
    """Raises ConfigError where it cannot be read."""
    path = folder / DEFINITION
    try:
        return ReplayDefinition.from_plain(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, CodecError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
