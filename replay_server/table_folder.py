"""A replay table's ring in its folder: made there, opened again, kept true through power cuts and rollbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from core.errors import ConfigError, ReplayError
from replay_server import manifest as manifests
from replay_server.data_dir import DataDir, write_definition
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


class GoingBack(NamedTuple):
    """To a manifest, before anything else reads the files. Nothing behind `written` was written since."""

    manifest: Manifest
    written: int
    why: str


def going_back(files: RingFiles, kept: Manifests, mark: Mark, *, durable: bool) -> GoingBack | None:
    """Where files return to whose writer ended in a rollback or in a power cut; None: they are true as they are.

    ConfigError where that cannot be read.
    """
    number = int(files.header[RESTORING])
    if number:
        found, skipped = kept.newest(number=number)
        if found is None:
            raise ConfigError(
                *skipped,
                f"the table was going back to manifest {number} when its server ended, and that is not there: move "
                f"{kept.folder} away to start without it",
            )
        return GoingBack(found, int(files.header[RESTORING_HEAD]), f"it goes on to return to manifest {number}")
    if files.header[BOOT] == boot_id():
        return None
    found, skipped = kept.newest() if durable else (None, [])
    anew = (
        "".join(f"{problem}; the manifest before it is taken; " for problem in skipped) + "the machine was started anew"
    )
    if found is not None and mark.position > 0:
        lost = found.lost(mark.position, files.layout.cells)
        why = (
            f"{anew}; it is as manifest {found.number} says, {found.items - lost} items, without {lost} whose rows may "
            "have been overwritten since"
        )
        return GoingBack(found, mark.position, why)
    lacks = "there is no manifest" if found is None else "its file `mark` cannot be read, so no manifest is believed"
    return GoingBack(
        manifests.empty(), 0, f"{anew} and {lacks if durable else 'its folder is not for that'}: it is empty"
    )


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
        folder._manifests.remove_unfinished()
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
        back = going_back(files, self._manifests, self._mark, durable=self.durable)
        if back is None:
            return
        if not back.manifest.number:
            self._manifests.forget_after(0)  # nor are their rows what they were
        manifests.restore(files, back.manifest, back.written)
        if self.durable and not back.manifest.number:
            self._mark.write(files.layout.cells)  # positions begin anew
        logger.warning("table %r: %s", self.path.name, back.why)

    @property
    def _written(self) -> int:
        """Nothing behind it was written: the head, but for a ring that went back and did not come as far again."""
        return max(self.ring.head, int(self.ring.files.header[RESTORING_HEAD]))

    def write_definition(self, definition: ReplayDefinition) -> None:
        """Another one takes its place. Raises ReplayError."""
        try:
            write_definition(self.path, definition, durable=self.durable)
        except OSError as error:
            raise ReplayError(f"the definition cannot be written in {self.path}: {error}; free space there") from error

    # ------------------------------------------------------------------------------------------ the mark

    def wanted_mark(self) -> int | None:
        """The position that the mark should be moved to; None while it need not.

        An eighth of the ring ahead, so that the ring waits for it only where a block is larger. On the first lap, which
        writes over nothing, not before the ring needs it: what the mark is ahead is lost in a power cut.
        """
        ring, limit = self.ring, self.ring.reuse_limit
        if limit is None:
            return None
        eighth = ring.layout.cells // 8
        if ring.needed > limit:
            return ring.needed + eighth
        return ring.head + 2 * eighth if ring.layout.cells < limit < ring.head + eighth else None

    def write_mark(self, position: int) -> int:
        """Runs in any one thread. Returns the position, for `marked`."""
        self._mark.write(position)
        return position

    # ------------------------------------------------------------------------------------------ manifests

    def checkpoint(self, round_: int | None, keep: Collection[int] = ()) -> Callable[[], Manifest]:
        """The manifest of now; the callable writes it and may run in any one thread.

        Those of the rounds to `keep` stay.
        """
        taken = manifests.take(self.ring, self._manifests.next_number, round_)
        self._manifests.next_number += 1

        def write() -> Manifest:
            try:
                if self.durable:
                    self._allocator.sync()
                self._manifests.write(taken, keep)
            except OSError as error:
                raise ReplayError(f"no manifest can be written in {self.path}: {error}; free space there") from error
            return taken

        return write

    @property
    def newest_manifest_s(self) -> float | None:
        """When it was written, in seconds since the epoch; None: there is none."""
        return self._manifests.newest_s

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

    def abandon(self) -> None:
        """Let go of the files, which are of no use any more."""
        self._allocator.close()

    def close(self) -> None:
        """Write a last manifest, and that nothing is written after it."""
        if self.durable:
            self.checkpoint(None)()
            self._mark.write(max(self._written, self.ring.layout.cells))
        self._allocator.close()
