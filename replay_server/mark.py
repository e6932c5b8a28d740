"""How far a ring's cells may have been written, as the disk knows it. For rings that a power cut must not confuse.

A manifest says which blocks were in the table at its time. Since then some of their cells may have been written again,
and a power cut leaves no trace of it. So before any position is written, the mark on the disk is beyond it: after a
power cut the blocks of the manifest that begin before `mark - cells` are not believed. Inserts never wait for a sync
of the columns, only, and seldom, for this one line. The two lines of the file take turns; a torn one has a wrong sum.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

LINE = struct.Struct("<QqI")
LINE_BYTES = 4096
"""Lines lie in pages of their own."""


class Mark:
    """The file `mark` of a table's folder. `write` may run in any one thread. `position` 0: no line can be read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "mark"
        self._count, self.position = self._read()

    def write(self, position: int) -> None:
        """Return when the disk has it."""
        count = self._count + 1
        line = struct.pack("<Qq", count, position)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, line + struct.pack("<I", zlib.crc32(line)), count % 2 * LINE_BYTES)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._count, self.position = count, position  # not where it failed: the line that is whole stays

    def _read(self) -> tuple[int, int]:
        """(count, position) of the newest line that is whole; zeros where there is none."""
        best = (0, 0)
        with contextlib.suppress(FileNotFoundError):
            data = self._path.read_bytes()
            for at in (0, LINE_BYTES):
                line = data[at : at + LINE.size]
                if len(line) == LINE.size:
                    count, position, crc = LINE.unpack(line)
                    if crc == zlib.crc32(line[:-4]):
                        best = max(best, (count, position))
        return best
