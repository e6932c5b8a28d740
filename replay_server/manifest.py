"""Manifests: what a ring's RAM knew at one moment, in one small file, to return to after a power cut or to a round.

    magic, length of the body (8 bytes), the body (msgpack), CRC-32 of all before

A manifest is complete or it is not there: written under another name, synced, renamed. It is taken on the loop's thread
(microseconds) and written by another one, after the columns were synced where the folder is on a disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack
import numpy as np
from numpy.typing import NDArray

from core.errors import ReplayError
from core.types import Array
from replay_server.layout import BLOCK_WORDS, WRITER_WORDS
from replay_server.recovery import committed
from replay_server.ring import Ring
from replay_server.ring_files import BOOT, RESTORING, RESTORING_HEAD, START, RingFiles, boot_id

MAGIC = b"shoal-m1"
NAME = re.compile(r"manifest-(\d{12})(-round(\d+))?")
KEPT = 2
"""So many of each kind: of the regular ones, and of those of a round ..."""
MOST_KEPT_ROUNDS = 16
"""... beside as many that a learner's checkpoints still go back to."""
ITEMS = BLOCK_WORDS - 1
"""A word of a block's line in a manifest: how many items it has. The ring's own lines do not say it."""


@dataclass(frozen=True)
class Manifest:
    """The lines of committed blocks oldest first, those of lives without a block, and counters.

    `priority` and `times` come with a round's manifest only: a rollback restores them, a power cut takes them as found.
    """

    number: int
    round: int | None
    tail: int
    head: int
    evicted: int
    sampled: int
    max_priority: float
    blocks: bytes
    writers: bytes
    priority: bytes | None
    times: bytes | None

    @property
    def lines(self) -> NDArray[np.int64]:
        """[n, 16]."""
        return np.frombuffer(self.blocks, np.int64).reshape(-1, BLOCK_WORDS)

    @property
    def lives(self) -> NDArray[np.int64]:
        """[n, WRITER_WORDS]."""
        return np.frombuffer(self.writers, np.int64).reshape(-1, WRITER_WORDS)

    @property
    def items(self) -> int:
        """In the table at that moment."""
        return int(self.lines[:, ITEMS].sum())

    def lost(self, written: int, cells: int) -> int:
        """How many of them are in blocks whose cells may be others' now: nothing behind `written` was written."""
        lines = self.lines
        return int(lines[lines[:, START] < written - cells, ITEMS].sum())


def take(ring: Ring, number: int, round_: int | None) -> Manifest:
    """The ring as it is now."""
    files = ring.files
    lines = files.blocks[committed(files.blocks, ring.tail)].copy()
    items = ring.items_of_blocks()
    lines[:, ITEMS] = [items[start] for start in lines[:, START].tolist()]
    writers = files.writers[files.writers[:, WRITER_WORDS - 1] != 0]
    return Manifest(
        number=number,
        round=round_,
        tail=ring.tail,
        head=ring.head,
        evicted=ring.evicted,
        sampled=files.sampled,
        max_priority=files.max_priority,
        blocks=lines.tobytes(),
        writers=writers.tobytes(),
        priority=None if round_ is None else _bytes(files.priority),
        times=None if round_ is None else _bytes(files.times),
    )


def restore(files: RingFiles, manifest: Manifest, written: int) -> int:
    """Make the files say what the manifest does; returns how many of its items are lost.

    `written` is a position that nothing behind was written: blocks whose cells may be others' now are left out. Killed
    anywhere in here, the next start finds `restoring`, or for the empty manifest (number 0) still another `boot`, and
    does it again.
    """
    header = files.header
    header[RESTORING_HEAD] = written
    header[RESTORING] = manifest.number
    files.renew_epoch()
    lost, lines = manifest.lost(written, files.layout.cells), manifest.lines
    kept = lines[lines[:, START] >= written - files.layout.cells]
    kept[:, ITEMS] = 0
    files.blocks[:] = 0
    files.blocks[: len(kept)] = kept
    files.writers[:] = 0
    files.writers[: len(manifest.lives)] = manifest.lives
    for store, saved in ((files.priority, manifest.priority), (files.times, manifest.times)):
        if store is not None and saved is not None:
            store[:] = np.frombuffer(saved, store.dtype)
    files.max_priority, files.sampled = manifest.max_priority, manifest.sampled
    files.record_eviction(int(kept[0, START]) if len(kept) else manifest.head, manifest.evicted + lost)
    header[BOOT] = boot_id()
    header[RESTORING] = 0
    return lost


def empty(number: int = 0) -> Manifest:
    """Of a table that holds nothing."""
    return Manifest(number, None, 0, 0, 0, 0, 1.0, b"", b"", None, None)


class Manifests:
    """Those of one table's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next_number = max(map(_number, self._paths()), default=0) + 1

    def remove_unfinished(self) -> None:
        """Of a server that was killed while it wrote one."""
        for left in self.folder.glob(".manifest-*"):
            left.unlink()

    @property
    def newest_s(self) -> float | None:
        """When the newest one was written, in seconds since the epoch; None: there is none."""
        paths = self._paths()
        return paths[0].stat().st_mtime if paths else None

    def write(self, manifest: Manifest, keep: Collection[int] = ()) -> None:
        """Return when the disk has it; older ones than `KEPT` of its kind go, but for those of the rounds to `keep`."""
        body = msgpack.packb(asdict(manifest))
        head = MAGIC + struct.pack("<Q", len(body))
        path = (
            self.folder
            / f"manifest-{manifest.number:012d}{'' if manifest.round is None else f'-round{manifest.round}'}"
        )
        temporary = self.folder / f".{path.name}"
        try:
            with temporary.open("wb") as file:
                file.write(head + body + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        kept = sorted(keep)[-MOST_KEPT_ROUNDS:]
        of_its_kind = [path for path in self._paths() if (_round(path) is None) == (manifest.round is None)]
        rounds = {_round(path) for path in of_its_kind[:KEPT]}
        for old in of_its_kind[KEPT:]:
            if _round(old) in kept and _round(old) not in rounds:
                rounds.add(_round(old))
            else:
                old.unlink(missing_ok=True)

    def newest(self, round_: int | None = None, number: int | None = None) -> tuple[Manifest | None, list[str]]:
        """The newest manifest (of a round, or of that number) that is whole, and what is wrong with newer ones."""
        skipped = []
        for path in self._paths():
            try:
                manifest = read(path)
            except ReplayError as error:
                skipped.append(str(error))
                continue
            if round_ in (None, manifest.round) and number in (None, manifest.number):
                return manifest, skipped
        return None, skipped

    def forget_after(self, number: int) -> None:
        """The table goes back to that one: newer ones would be of another future."""
        for path in self._paths():
            if _number(path) > number:
                path.unlink()
        sync_folder(self.folder)

    def rounds(self) -> list[int]:
        """The rounds that can be returned to."""
        found = []
        for path in self._paths():
            with contextlib.suppress(ReplayError):
                manifest = read(path)
                found += [] if manifest.round is None else [manifest.round]
        return sorted(found)

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted((path for path in self.folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _round(path: Path) -> int | None:
    found = NAME.fullmatch(path.name)
    return int(found[3]) if found and found[3] else None


def read(path: Path) -> Manifest:
    """Raises ReplayError where the file is not whole."""
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 12:
        raise ReplayError(f"{path} is no manifest of this version: it begins with {data[:8]!r}, {len(data)} bytes")
    (crc,) = struct.unpack("<I", data[-4:])
    if crc != zlib.crc32(data[:-4]):
        raise ReplayError(f"{path} has CRC {zlib.crc32(data[:-4]):08x}, it says {crc:08x}: it is damaged")
    try:
        found = Manifest(**msgpack.unpackb(data[len(MAGIC) + 8 : -4]))
        _ = (found.lines, found.lives, found.number + found.head - found.tail)  # they can be read
    except (TypeError, ValueError) as error:
        raise ReplayError(f"{path} is a manifest of another version: {error}") from error
    return found


def sync_folder(folder: Path) -> None:
    """Names in it are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bytes(array: Array | None) -> bytes | None:
    return None if array is None else array.tobytes()
