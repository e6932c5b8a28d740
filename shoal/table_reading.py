"""A replay table read in order from its files: every environment of every life, block after block, and its episodes.

For a host that has the files (core/mapped.py). The server may go on inserting meanwhile: rows that it overwrote while
they were read are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import ReplayError
from core.mapped import MappedRing
from core.types import Array
from replay_server.layout import BLOCK_WORDS
from replay_server.ring_files import COMMIT, ENVS, FILLED_MASK, INCARNATION, ROWS, SLOT, START

_NEVER_EVICTED = np.array([np.iinfo(np.int64).max])
"""A ring holds this key for as long as its epoch is the same."""


@dataclass(frozen=True)
class Strand:
    """Consecutive rows of one environment: [T, ...], with T + 1 rows of columns that have an extra row.

    `begins` False: rows before these were there once, or may have been.
    """

    columns: dict[str, Array]
    begins: bool


@dataclass(frozen=True)
class Piece:
    """An episode, or what is there of it: columns [T, ...], those with an extra row [T + 1, ...]."""

    columns: dict[str, Array]
    terminated: bool
    complete: bool

    def __len__(self) -> int:
        return len(self.columns["valid"])


def strands(ring: MappedRing) -> Iterator[Strand]:
    """All rows that the table holds, life by life in the order in which they began.

    Raises ReplayError where the table was rolled back meanwhile.
    """
    words = ring.map_words("blocks", BLOCK_WORDS)
    before, lines, tail = np.array(words), np.array(words), ring.tail  # a line that changed meanwhile is not read
    lines = lines[(lines[:, START] >= tail) & (lines[:, START] == before[:, START]) & (filled(lines) > 0)]
    _check_epoch(ring)
    lines = lines[np.argsort(lines[:, START], kind="stable")]
    lives: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for line in lines:
        lives.setdefault((int(line[SLOT]), int(line[INCARNATION])), []).append(line)
    for blocks in lives.values():
        for env in range(int(blocks[0][ENVS])):
            yield from _environment(ring, blocks, env, begins=tail == 0)


def filled(lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are committed, of each block line."""
    rows: NDArray[np.int64] = lines[..., COMMIT] & FILLED_MASK
    return rows


def _environment(ring: MappedRing, blocks: list[NDArray[np.int64]], env: int, begins: bool) -> Iterator[Strand]:
    """One environment of one life. A block repeats the last rows of the one before it."""
    repeated = ring.before + ring.after - 1
    parts: list[dict[str, Array]] = []
    former = 0  # rows of the block before
    for line in blocks:
        rows = int(filled(line))
        part = _rows(ring, line, env, min(repeated, former), rows)
        _check_epoch(ring)
        if ring.tail > line[START]:  # overwritten meanwhile, and so were those before it, which are copied already
            if parts:
                yield _joined(ring, parts, begins)
            parts, former, begins = [], 0, False
            continue
        parts.append(part)
        former = rows
    if parts:
        yield _joined(ring, parts, begins)


def _check_epoch(ring: MappedRing) -> None:
    """Raises ReplayError where the table was rolled back: the tail, which goes back too, does not tell of that."""
    if not ring.holds(_NEVER_EVICTED):
        raise ReplayError(f"the table in {ring.directory} was rolled back while it was read: read it again")


def _rows(ring: MappedRing, line: NDArray[np.int64], env: int, start: int, end: int) -> dict[str, Array]:
    """Copies of the rows from `start` to `end` of one environment, and the row below them where there is one."""
    at = int(line[START]) % ring.cells + env * int(line[ROWS])
    extra = {name: ring.signature.columns[name].extra_rows for name in ring.columns}
    return {name: store[at + start : at + end + extra[name]].copy() for name, store in ring.columns.items()}


def _joined(ring: MappedRing, parts: list[dict[str, Array]], begins: bool) -> Strand:
    columns = {}
    for name in ring.columns:
        extra = ring.signature.columns[name].extra_rows
        cut = [part[name][: len(part[name]) - extra] for part in parts[:-1]]
        columns[name] = np.concatenate([*cut, parts[-1][name]])
    first = columns["valid"][: ring.before]
    return Strand(columns, begins or (ring.before > 0 and len(first) == ring.before and not first.any()))


def episodes(strand: Strand) -> Iterator[Piece]:
    """The episodes of consecutive rows: runs of valid ones; a row that terminates ends its own."""
    valid, discount = strand.columns["valid"] != 0, strand.columns.get("discount")
    if not len(valid):
        return
    terminated = np.zeros(len(valid), bool) if discount is None else discount == 0
    starts = valid & ~np.concatenate(([False], valid[:-1] & ~terminated[:-1]))
    ends = valid & ~np.concatenate((valid[1:] & ~terminated[:-1], [False]))
    for start, last in zip(np.flatnonzero(starts), np.flatnonzero(ends), strict=True):
        end = int(last) + 1
        columns = {name: column[start : end + len(column) - len(valid)] for name, column in strand.columns.items()}
        begun, over = start > 0 or strand.begins, end < len(valid) or bool(terminated[last])
        yield Piece(columns, bool(terminated[last]), begun and over)
