"""From a ring's files to what RAM keeps of them. Reads `valid`, `times`, `priority`, and no other column. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.mapped import TAIL
from core.types import Array
from replay_server.dedupe import Life
from replay_server.ring_files import (
    CLOSED,
    COMMIT,
    ENVS,
    FILLED_MASK,
    FIRST_ROUND,
    INCARNATION,
    LOW,
    ROWS,
    SLOT,
    START,
    W_FIRST_ROUND,
    W_INCARNATION,
    W_SEQ,
    W_SLOT,
    Block,
    RingFiles,
    unsigned,
)


@dataclass
class Recovered:
    """Blocks oldest first, which of their rows from `low` on are items ([envs, n] each), and who wrote them."""

    tail: int
    head: int
    evicted: int
    blocks: list[Block] = field(default_factory=list)
    live: list[NDArray[np.bool_]] = field(default_factory=list)
    open: dict[Life, Block] = field(default_factory=dict)
    lost: dict[Life, int] = field(default_factory=dict)
    ended: list[Life] = field(default_factory=list)
    last_rounds: dict[int, int] = field(default_factory=dict)
    """The last round of each slot that is in the table."""


def recover(files: RingFiles, max_times: int) -> Recovered:
    """What the files hold. Raises ConfigError where that is no ring."""
    tail, evicted = files.evicted_record
    files.header[TAIL] = tail  # killed between the two: who reads the files would believe what is written over
    lines = committed(files.blocks, tail)
    problems = damage(files.blocks[lines], tail, files.layout.cells)
    ConfigError.raise_if(f"the ring's blocks are damaged: {problem}" for problem in problems)
    found = Recovered(tail, tail, evicted)
    for number in lines.tolist():
        block = _read_block(number, files.blocks[number])
        found.blocks.append(block)
        found.live.append(_live(files, block, max_times))
        block.items = _items(files, block)
        _note_priorities(files, block)
        found.head = block.end
    if found.blocks:
        found.tail = found.blocks[0].start
    _read_lives(files, found)
    return found


def committed(blocks: Array, tail: int) -> NDArray[np.int64]:
    """The lines of blocks that hold rows, oldest first."""
    lines = np.flatnonzero((blocks[:, START] >= tail) & (blocks[:, COMMIT] != 0))
    ordered: NDArray[np.int64] = lines[np.argsort(blocks[lines, START], kind="stable")]
    return ordered


def damage(lines: Array, tail: int, cells: int) -> list[str]:
    """Why ordered lines of committed blocks cannot be true; nothing where they can."""
    if not len(lines):
        return []
    start, size = lines[:, START], lines[:, ENVS] * lines[:, ROWS]
    filled = lines[:, COMMIT] & FILLED_MASK
    checks = {
        "no environments or rows": (lines[:, ENVS] < 1) | (lines[:, ROWS] < 1),
        "more rows filled than there are": (filled > lines[:, ROWS]) | (lines[:, LOW] > lines[:, ROWS]),
        "it crosses the end of the ring": start % cells + size > cells,
        "it begins before the one in front ends": np.append(start[1:] < (start + size)[:-1], False),
        "it is further from the tail than the ring is long": start + size - tail > cells,
    }
    return [
        f"the block at position {int(start[at])}: {what}"
        for what, wrong in checks.items()
        for at in np.flatnonzero(wrong)[:3]
    ]


def _read_block(number: int, line: Array) -> Block:
    words = line.tolist()
    return Block(
        number=number,
        life=(words[SLOT], unsigned(words[INCARNATION])),
        start=words[START],
        envs=words[ENVS],
        rows=words[ROWS],
        low=words[LOW],
        filled=words[COMMIT] & FILLED_MASK,
        first_round=words[FIRST_ROUND],
    )


def _window(files: RingFiles, block: Block) -> slice:
    """The rows whose windows are filled."""
    return slice(block.low, max(block.low, block.filled - files.layout.after + 1))


def _items(files: RingFiles, block: Block) -> int:
    return int(np.count_nonzero(files.view(files.columns["valid"], block)[:, _window(files, block)]))


def _live(files: RingFiles, block: Block, max_times: int) -> NDArray[np.bool_]:
    rows = _window(files, block)
    live: NDArray[np.bool_] = files.view(files.columns["valid"], block)[:, rows] != 0
    if files.times is not None and max_times:
        live &= files.view(files.times, block)[:, rows] < max_times
    return live


def _note_priorities(files: RingFiles, block: Block) -> None:
    """Killed between its commit, or an update, and the store of the largest priority, that one is too small."""
    if files.priority is not None:
        priority = files.view(files.priority, block)[:, block.low : block.filled]
        largest = float(priority.max(where=np.isfinite(priority), initial=0.0))
        if largest > files.max_priority:
            files.max_priority = largest


def _read_lives(files: RingFiles, found: Recovered) -> None:
    newest: dict[Life, Block] = {}
    for block in found.blocks:
        newest[block.life] = block
    for life, block in newest.items():
        _note_round(found, life, block.first_round, files.last_seq(block))
        if files.blocks[block.number, CLOSED]:
            found.ended.append(life)
        else:
            found.open[life] = block
    for line in np.flatnonzero(files.writers[:, W_SEQ]).tolist():
        words = files.writers[line].tolist()
        life = words[W_SLOT], unsigned(words[W_INCARNATION])
        if life in newest:  # killed between its block's commit, or its eviction, and the other store
            files.writers[line, W_SEQ] = 0
        else:
            found.lost[life] = line
            _note_round(found, life, words[W_FIRST_ROUND], words[W_SEQ])


def _note_round(found: Recovered, life: Life, first_round: int, seq: int) -> None:
    slot, last_round = life[0], first_round + seq - 1
    found.last_rounds[slot] = max(found.last_rounds.get(slot, last_round), last_round)
