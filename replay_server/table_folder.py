"""A replay table's ring in its folder: made there, opened again, kept true through power cuts and rollbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from core.errors import ConfigError, ReplayError
from replay_server import manifest as manifests
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.layout import RingLayout
from replay_server.manifest import Manifest, Manifests
from replay_server.mark import Mark
from replay_server.ring import Ring
from replay_server.ring_files import BOOT, RESTORING, RESTORING_HEAD, RingFiles, boot_id
from replay_server.storage import FileAllocator, MemoryAllocator

logger = logging.getLogger(__name__)
MakeRing = Callable[[FileAllocator, Callable[[RingFiles], None]], Ring]
"""Makes the ring over an allocator; the second argument sees the files before the ring reads them."""


def open_ring(
    definition: ReplayDefinition, layout: RingLayout, max_lives: int, data_dir: DataDir | None, *, existing: bool
) -> tuple[Ring, TableFolder | None]:
    """A table's ring: in memory, in a new folder, or in the one that is there. Raises ConfigError."""

    def make(allocator: FileAllocator | MemoryAllocator, prepare: Callable[[RingFiles], None] | None = None) -> Ring:
        return Ring(
            *(definition.signature, layout, allocator, max_lives),
            priorities=definition.sampler == "prioritised",
            max_times=definition.max_times_sampled,
            prepare=prepare,
        )

    if data_dir is None:
        return make(MemoryAllocator()), None
    if existing:
        folder = TableFolder.reopen(data_dir, definition.name, make)
    else:
        folder = TableFolder.make(data_dir, definition, make)
    return folder.ring, folder


class TableFolder:
    """What a ring needs beside its arrays. The loop's thread calls everything but what is said to run elsewhere."""

    def __init__(self, path: Path, allocator: FileAllocator, *, durable: bool) -> None:
        self.path, self.durable = path, durable
        self._allocator = allocator
        self._mark, self._manifests = Mark(path), Manifests(path)

    @classmethod
    def make(cls, data_dir: DataDir, definition: ReplayDefinition, make_ring: MakeRing) -> TableFolder:
        """A new table's folder: it is there when its files are complete. Raises ConfigError."""
        name = definition.name
        allocator = FileAllocator(data_dir.begin(name))
        try:
            ring = make_ring(allocator, lambda files: None)
            folder = cls(allocator.directory, allocator, durable=data_dir.durable)
            if data_dir.durable:
                folder._mark.write(ring.layout.cells)  # the first lap writes over nothing
                allocator.sync()
            data_dir.commit(name, definition)
        except BaseException as error:
            allocator.close()
            data_dir.abandon(name)
            if isinstance(error, OSError):
                raise ConfigError(f"table {name!r} cannot be made in {data_dir.path}: {error}") from error
            raise
        folder = cls(data_dir.folder(name), allocator, durable=data_dir.durable)
        folder.bind(ring)
        return folder

    @classmethod
    def reopen(cls, data_dir: DataDir, name: str, make_ring: MakeRing) -> TableFolder:
        """The folder of a table that an earlier process made. Raises ConfigError where it is damaged."""
        path = data_dir.folder(name)
        allocator = FileAllocator(path, existing=True)
        folder = cls(path, allocator, durable=data_dir.durable)
        try:
            folder.bind(make_ring(allocator, folder._prepare))
        except BaseException:
            allocator.close()
            raise
        return folder

    def bind(self, ring: Ring) -> None:
        """The ring that lives here."""
        self.ring = ring
        if self.durable:
            ring.reuse_limit = self._mark.position

    def _prepare(self, files: RingFiles) -> None:
        """Make the files true where their writer did not end between two stores, but in a power cut or a rollback."""
        header, name = files.header, self.path.name
        if header[RESTORING] > 0:
            found, _ = self._manifests.newest(number=int(header[RESTORING]))
            if found is None:
                raise ReplayError(f"table {name!r} was going back to manifest {header[RESTORING]}, which is not there")
            manifests.restore(files, found, int(header[RESTORING_HEAD]))
        elif header[RESTORING] < 0:
            manifests.restore(files, manifests.empty(), 0)
        elif header[BOOT] != boot_id():
            self._after_power_cut(files)

    def _after_power_cut(self, files: RingFiles) -> None:
        found, skipped = self._manifests.newest() if self.durable else (None, [])
        for problem in skipped:
            logger.warning("table %r: %s; the manifest before it is taken", self.path.name, problem)
        if not self.durable:
            self._manifests.forget_after(0)  # nor are their columns what they were
        if found is None:
            why = "there is no manifest" if self.durable else "its folder is not for that"
            logger.warning("table %r: the machine was started anew and %s: it is empty", self.path.name, why)
            manifests.restore(files, manifests.empty(), 0)
            return
        lost = manifests.restore(files, found, self._mark.position)
        logger.warning(
            "table %r: the machine was started anew; it is as manifest %d says, %d items, without %d whose rows may "
            "have been overwritten since",
            *(self.path.name, found.number, found.items - lost, lost),
        )

    @property
    def _written(self) -> int:
        """Nothing behind it was written: the head, but for a ring that went back and did not come as far again."""
        return max(self.ring.head, int(self.ring.files.header[RESTORING_HEAD]))

    # ------------------------------------------------------------------------------------------ the mark

    def wanted_mark(self, room: int) -> int | None:
        """The position that the mark should be moved to before the ring waits for it; None while it need not.

        `room` is the most cells that one step of the ring may need.
        """
        limit = self.ring.reuse_limit
        if limit is None:
            return None
        step = max(self.ring.layout.cells // 8, room)
        return self.ring.head + 2 * step if limit - self.ring.head < step else None

    def write_mark(self, position: int) -> int:
        """Runs in any one thread. Returns the position, for `marked`."""
        self._mark.write(position)
        return position

    # ------------------------------------------------------------------------------------------ manifests

    def checkpoint(self, round_: int | None) -> Callable[[], Manifest]:
        """The manifest of now; the callable writes it and may run in any one thread."""
        taken = manifests.take(self.ring, self._manifests.next_number, round_)
        self._manifests.next_number += 1

        def write() -> Manifest:
            if self.durable:
                self._allocator.sync()
            self._manifests.write(taken)
            return taken

        return write

    def rollback(self, round_: int) -> int:
        """The ring is what it was at that round; returns how many of its items are lost. Raises ReplayError."""
        found, skipped = self._manifests.newest(round_)
        for problem in skipped:
            logger.warning("table %r: %s", self.path.name, problem)
        if found is None:
            raise ReplayError(
                f"table {self.path.name!r} has no manifest of round {round_}; there are those of rounds "
                f"{self._manifests.rounds()}"
            )
        self._manifests.forget_after(found.number)
        lost = manifests.restore(self.ring.files, found, self._written)
        self.ring.load()
        return lost

    def close(self) -> None:
        """Write a last manifest, and that nothing is written after it."""
        if self.durable:
            self.checkpoint(None)()
            self._mark.write(self._written)
        self._allocator.close()
