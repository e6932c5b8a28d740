"""The block ring: an append-only log of blocks over preallocated columns. Pure but for its files; one thread.

A block is `rows` consecutive rows of the B environments of one life (slot, incarnation), env-major:

    position = start + b x rows + t          positions count up for ever and are the items' keys
    cell     = position mod cells            no block crosses the end of the ring

Committed cells never change until their block, the oldest one, is evicted. A row is an item when it is valid and its
window (`before` rows in front, `after` from the row on) is filled; a new block repeats the rows that later windows
need, so a window never leaves its block and is one `np.take`. A commit is one aligned 8-byte store, seq << 24 | filled,
after the columns: rows and counter become visible together, also to who reads the files after a crash.

What the files hold, beside one file a column (all words int64):

    header   [8]              tail, layout version, cells, before, after
    blocks   [n, 8]           commit, start, envs, rows, low, slot, incarnation, closed; free if start < tail
    writers  [lives, 3]       slot, incarnation, seq of open lives whose blocks are all evicted; free if seq is 0
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import ItemRejectedError
from core.specs import Signature
from core.types import Array, Columns
from replay_server.dedupe import Life
from replay_server.layout import RingLayout
from replay_server.storage import Allocator, MemoryAllocator

TAIL, LAYOUT_VERSION, CELLS, BEFORE, AFTER = range(5)
COMMIT, START, ENVS, ROWS, LOW, SLOT, INCARNATION, CLOSED = range(8)
FILLED_BITS = 24


@dataclass(slots=True, eq=False)
class Block:
    """RAM's copy of one line of `blocks`. Rows before `low` are context only; `items` counts the live ones."""

    number: int
    life: Life
    start: int
    envs: int
    rows: int
    low: int
    filled: int
    items: int = 0


class Ring:
    """Columns, blocks and the map of live items. Who calls it checks shapes and seqs first (see replay.py)."""

    def __init__(
        self, signature: Signature, layout: RingLayout, allocator: Allocator | None = None, max_lives: int = 16384
    ) -> None:
        make = (allocator or MemoryAllocator()).allocate
        self.layout = layout
        self.tail = self.head = self.items = self.evicted = 0
        self.columns: dict[str, Array] = {
            name: make(f"column.{name}", (layout.cells, *column.array.shape), column.array.dtype)
            for name, column in signature.columns.items()
        }
        self._extra = {name: column.extra_rows for name, column in signature.columns.items()}
        most_blocks = min(1 << 16, 64 + 4 * layout.cells // layout.block_rows)
        self._blocks: NDArray[np.int64] = make("blocks", (most_blocks, 8), "int64")
        self._writers: NDArray[np.int64] = make("writers", (max_lives + 1, 3), "int64")
        self._header: NDArray[np.int64] = make("header", (8,), "int64")
        self._header[1:5] = 1, layout.cells, layout.before, layout.after
        self.live = np.zeros(layout.cells, np.uint8)
        self._order: deque[Block] = deque()  # oldest first
        self._open: dict[Life, Block] = {}
        self._lost: dict[Life, int] = {}  # open lives whose blocks are all evicted: their line in `writers`
        self._free_blocks = list(range(most_blocks - 1, -1, -1))
        self._free_writers = list(range(max_lives, -1, -1))
        self._window = np.arange(-layout.before, layout.after + 1)[:, None]
        self.held_bytes = sum(a.nbytes for a in (*self.columns.values(), self._blocks, self._writers, self.live))

    @property
    def open_blocks(self) -> int:
        """Lives that are writing a block."""
        return len(self._open)

    def insert(self, slot: int, incarnation: int, seq: int, columns: Columns, rows: int, envs: int) -> int:
        """Append an unroll of [rows, envs] to its life's block; returns how many rows became items.

        Columns with an extra row (obs [T+1, B, ...]) bring the row below the last; their first row is there already
        when the life goes on. ItemRejectedError when the unroll does not fit, and nothing has changed.
        """
        life = slot, incarnation
        block = self._open.get(life)
        if block is not None and block.envs != envs:
            raise ItemRejectedError(f"slot {slot} sends {envs} environments, its earlier unrolls had {block.envs}")
        if block is None or block.filled + rows + 1 > block.rows:
            block = self._open_block(life, block, columns, rows, envs)
        at = block.filled
        for name, store in self.columns.items():
            extra = self._extra[name]
            self._view(store, block)[:, at + extra : at + extra + rows] = columns[name][extra:].swapaxes(0, 1)
        first = max(block.low, at - self.layout.after + 1)
        end = max(block.low, at + rows - self.layout.after + 1)
        fresh = self._view(self.columns["valid"], block)[:, first:end] != 0
        self._blocks[block.number, COMMIT] = seq << FILLED_BITS | (at + rows)
        self._view(self.live, block)[:, first:end] = fresh
        self._forget_lost(life)  # only now: until the commit its counter was the line in `writers`
        block.filled = at + rows
        new_items = int(np.count_nonzero(fresh))
        block.items += new_items
        self.items += new_items
        return new_items

    def end_life(self, slot: int, incarnation: int) -> None:
        """The life has ended: its block takes no more rows and goes when it is the oldest."""
        life = slot, incarnation
        block = self._open.pop(life, None)
        if block is not None:
            self._blocks[block.number, CLOSED] = 1
        self._forget_lost(life)

    def alive(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the keys still are items."""
        inside = (keys >= self.tail) & (keys < self.head)
        alive: NDArray[np.bool_] = inside & (self.live[keys % self.layout.cells] != 0)
        return alive

    def gather(self, keys: NDArray[np.int64], out: Columns | None = None) -> dict[str, Array]:
        """The windows of live `keys`, time-major and contiguous: [before + after (+ 1 with an extra row), N, ...].

        `out` may hold arrays of exactly these shapes to fill instead of new ones.
        """
        cells = self._window + keys % self.layout.cells
        return {
            name: np.take(
                store,
                cells if self._extra[name] else cells[:-1],
                axis=0,
                out=None if out is None else out[name],
                mode="clip",
            )
            for name, store in self.columns.items()
        }

    def _view(self, store: Array, block: Block) -> Array:
        """The block's part of a column: [envs, rows, ...]."""
        at = block.start % self.layout.cells
        part: Array = store[at : at + block.envs * block.rows]
        return part.reshape((block.envs, block.rows, *store.shape[1:]))

    def _open_block(self, life: Life, old: Block | None, columns: Columns, rows: int, envs: int) -> Block:
        """Make room at the head, and begin the block with the rows that its first windows need."""
        block_rows = self._make_room(life, rows, envs)
        kept = self._open.get(life)  # None also if `old` was evicted for the room
        if kept is not None:
            filled = min(self.layout.repeated, kept.filled)
            moved = kept.filled - filled
            low = max(kept.low, kept.filled - self.layout.after + 1) - moved  # the first row that is no item yet
        else:
            begins = old is None and life not in self._lost
            filled, low = self.layout.before if begins else 0, self.layout.before
        block = Block(self._free_blocks.pop(), life, self.head, envs, block_rows, low, filled)
        line = self._blocks[block.number]
        line[COMMIT] = 0
        line[START:] = block.start, envs, block_rows, low, life[0], _signed(life[1]), 0
        for name, store in self.columns.items():
            top, extra = self._view(store, block), self._extra[name]
            if kept is not None:
                top[:, : filled + extra] = self._view(store, kept)[:, moved : kept.filled + extra]
            elif extra:
                top[:, : filled + 1] = columns[name][0][:, None]  # a life begins: copies of its first row
            else:
                top[:, :filled] = 0  # rows that are not steps (valid 0)
        self.head = block.start + envs * block_rows
        self._order.append(block)
        self._open[life] = block
        return block

    def _make_room(self, life: Life, rows: int, envs: int) -> int:
        """Evict until a block of the returned rows fits at `head`, which skips the end of the ring if need be."""
        layout, size = self.layout, self.layout.cells
        lives = max(layout.open_blocks, len(self._open) + (life not in self._open))
        free = None if layout.evict else size - self.head
        block_rows = layout.block_rows_for(rows, envs, lives, free)
        cells = block_rows * envs
        if 2 * cells > size if free is None else cells > free or not self._free_blocks:
            raise ItemRejectedError(
                f"the table of {size} rows holds {self.items} items and has no room for a block of {cells} "
                f"({block_rows} rows of {envs} environments)"
                + ("; raise its capacity" if free is None else f": {free} rows are free and evict is False")
            )
        start = self.head
        if start % size + cells > size:
            start += size - start % size
        while self._order and (start + cells - self.tail > size or not self._free_blocks):
            self._evict()
        if start + cells - self.tail > size:  # nothing is left, but the tail lags behind the skipped end
            self.tail = self._header[TAIL] = start
        self.head = start
        return block_rows

    def _evict(self) -> None:
        """Drop the oldest block. The tail moves before any of its cells is written again."""
        block = self._order.popleft()
        if self._open.get(block.life) is block:
            del self._open[block.life]
            line = self._lost[block.life] = self._free_writers.pop()
            self._writers[line, :2] = block.life[0], _signed(block.life[1])
            self._writers[line, 2] = int(self._blocks[block.number, COMMIT]) >> FILLED_BITS
        self._view(self.live, block).fill(0)
        self.items -= block.items
        self.evicted += block.items
        self._free_blocks.append(block.number)
        self.tail = self._order[0].start if self._order else block.start + block.envs * block.rows
        self._header[TAIL] = self.tail

    def _forget_lost(self, life: Life) -> None:
        line = self._lost.pop(life, None)
        if line is not None:
            self._writers[line, 2] = 0
            self._free_writers.append(line)


def _signed(incarnation: int) -> int:
    """64 random bits as an int64 word."""
    return incarnation - (1 << 64) if incarnation >> 63 else incarnation
