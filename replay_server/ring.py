"""The block ring: an append-only log of blocks over preallocated columns. Pure but for its files; one thread.

A block is `rows` consecutive rows of the B environments of one life (slot, incarnation), env-major:

    position = start + b x rows + t          positions count up for ever and are the items' keys
    cell     = position mod cells            no block crosses the end of the ring

Committed cells never change until their block, the oldest one, is evicted. A row is an item when it is valid and its
window (`before` rows in front, `after` from the row on) is filled; a new block repeats the rows that later windows
need, so a window never leaves its block and is one `np.take`. A commit is one aligned 8-byte store after the columns:
rows and counter become visible together, also to who reads the files after a crash (ring_files.py, recovery.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Set

import numpy as np
from numpy.typing import NDArray

from core.errors import ItemRejectedError
from core.mapped import UNSTORED
from core.specs import Signature
from core.types import Array, Columns
from replay_server.dedupe import Life
from replay_server.layout import MAX_LIVES, RingLayout, ring_bytes
from replay_server.recovery import recover
from replay_server.ring_files import CLOSED, COMMIT, FILLED_BITS, W_SEQ, Block, RingFiles
from replay_server.samplers import Index
from replay_server.storage import Allocator, MemoryAllocator

MOST_ROUNDS = (1 << 63) - 1
"""A block's line has the round of its life's first unroll in 8 bytes."""


class Ring:
    """Columns, blocks and the map of live items. Who calls it checks shapes and seqs first (see replay.py).

    With `existing` files of the allocator it holds what they hold, after `prepare` saw to them. `max_times` 0: items
    may be drawn for ever.
    """

    def __init__(
        self,
        signature: Signature,
        layout: RingLayout,
        allocator: Allocator | None = None,
        max_lives: int = MAX_LIVES,
        *,
        priorities: bool = False,
        max_times: int = 0,
        prepare: Callable[[RingFiles], None] | None = None,
    ) -> None:
        self.layout, self.max_times = layout, max_times
        self.index: Index | None = None
        self.reuse_limit: int | None = None
        """No position from here on may be written yet: the disk does not know that what is there is gone (mark.py)."""
        self.needed = 0
        """The furthest position that somebody waits for."""
        count_times, allocator = max_times > 0, allocator or MemoryAllocator()
        self.files = files = RingFiles(
            *(signature, layout, allocator), max_lives=max_lives, priorities=priorities, count_times=count_times
        )
        self.held_bytes = ring_bytes(
            signature, layout, max_lives=max_lives, priorities=priorities, count_times=count_times
        )
        self.columns, self.priority, self.times = files.columns, files.priority, files.times
        self._window = np.arange(-layout.before, layout.after + 1)[:, None]
        self._rows = {name: slice(None) if extra else slice(-1) for name, extra in files.extra.items()}  # of a window
        self._first_row_only = {name for name in self.columns if signature.columns[name].window_rows == "first"}
        self.live = np.zeros(layout.cells, np.uint8)
        if prepare is not None:
            prepare(files)
        self.load()

    def load(self) -> None:
        """Take over what the files say."""
        found = recover(self.files, self.max_times)
        self.live[:] = 0
        for block, live in zip(found.blocks, found.live, strict=True):
            self.files.view(self.live, block)[:, block.low : block.low + live.shape[1]] = live
        self.tail, self.head, self.evicted, self.needed = found.tail, found.head, found.evicted, 0
        self.items = int(np.count_nonzero(self.live))
        self._order: deque[Block] = deque(found.blocks)  # oldest first
        self._open = found.open
        self._lost = found.lost  # open lives whose blocks are all evicted: their line in `writers`
        self.ended, self.last_rounds = found.ended, found.last_rounds
        used_blocks, used_writers = {block.number for block in found.blocks}, set(found.lost.values())
        self._free_blocks = [i for i in range(len(self.files.blocks) - 1, -1, -1) if i not in used_blocks]
        self._free_writers = [i for i in range(len(self.files.writers) - 1, -1, -1) if i not in used_writers]
        if self.index is not None:
            self.index.rebuilt()

    @property
    def open_blocks(self) -> int:
        """Lives that are writing a block."""
        return len(self._open)

    @property
    def inserted(self) -> int:
        """Items that ever were in the table."""
        return self.evicted + sum(block.items for block in self._order)

    @property
    def max_priority(self) -> float:
        """The largest priority that was ever set, at least 1."""
        return self.files.max_priority

    @max_priority.setter
    def max_priority(self, value: float) -> None:
        self.files.max_priority = value

    def items_of_blocks(self) -> dict[int, int]:
        """By where a block starts: how many items it ever had."""
        return {block.start: block.items for block in self._order}

    def lives(self) -> dict[Life, int]:
        """Open lives and the seq of their last unroll."""
        lost = {life: int(self.files.writers[line, W_SEQ]) for life, line in self._lost.items()}
        return lost | {life: self.files.last_seq(block) for life, block in self._open.items()}

    def insert(
        self,
        slot: int,
        incarnation: int,
        seq: int,
        columns: Columns,
        rows: int,
        envs: int,
        *,
        round: int = 0,
        restarted: bool = False,
    ) -> int:
        """Append an unroll of [rows, envs] to its life's block; returns how many rows became items.

        Columns with an extra row (obs [T+1, B, ...]) bring the row below the last; their first row is there already
        when the life goes on, unless its environments `restarted` with this unroll: then it begins a block, and the
        last rows in front of it, whose windows are not filled, never are items. ItemRejectedError when the unroll does
        not fit, and nothing has changed.
        """
        life = slot, incarnation
        block = self._open.get(life)
        if block is not None and block.envs != envs:
            raise ItemRejectedError(f"slot {slot} sends {envs} environments, its earlier unrolls had {block.envs}")
        if block is None or restarted or block.filled + rows + 1 > block.rows:
            block = self._open_block(life, block, columns, rows, envs, round - seq + 1, restarted)
        at, view = block.filled, self.files.view
        for name, store in self.columns.items():
            extra = self.files.extra[name]
            view(store, block)[:, at + extra : at + extra + rows] = columns[name][extra:].swapaxes(0, 1)
        largest = 0.0 if self.priority is None else self.files.store_priorities(block, rows, columns.get(UNSTORED))
        if self.times is not None:
            view(self.times, block)[:, at : at + rows] = 0
        first = max(block.low, at - self.layout.after + 1)
        end = max(block.low, at + rows - self.layout.after + 1)
        fresh = view(self.columns["valid"], block)[:, first:end] != 0
        self.files.blocks[block.number, COMMIT] = seq << FILLED_BITS | (at + rows)
        if largest > 0.0 and largest > self.max_priority:
            self.max_priority = largest  # only now: an unroll that comes again must not find itself the largest
        if self._lost:
            self._forget_lost(life)  # only now: until the commit its counter was the line in `writers`
        view(self.live, block)[:, first:end] = fresh
        block.filled = at + rows
        new_items = int(np.count_nonzero(fresh))
        block.items += new_items
        self.items += new_items
        if self.index is not None and new_items:
            env, row = np.nonzero(fresh)
            self.index.appeared(block.start % self.layout.cells + first + env * block.rows + row)
        return new_items

    def end_life(self, slot: int, incarnation: int) -> None:
        """The life has ended: its block takes no more rows and goes when it is the oldest."""
        life = slot, incarnation
        block = self._open.pop(life, None)
        if block is not None:
            self.files.blocks[block.number, CLOSED] = 1
        self._forget_lost(life)

    def remove(self, keys: NDArray[np.int64]) -> None:
        """These items, which must be alive, are no items any more; they count as inserted all the same."""
        cells = np.unique(keys % self.layout.cells)
        self.live[cells] = 0
        self.items -= len(cells)
        if self.index is not None:
            self.index.removed(cells)

    def alive(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the keys still are items."""
        inside = (keys >= self.tail) & (keys < self.head)
        alive: NDArray[np.bool_] = inside & (self.live[keys % self.layout.cells] != 0)
        return alive

    def gather(self, keys: NDArray[np.int64], out: Columns | None = None) -> dict[str, Array]:
        """The windows of live `keys`, time-major and contiguous: [before + after (+ 1 with an extra row), N, ...].

        [N, ...] of a column whose window_rows is "first". `out` may hold arrays of exactly these shapes to fill.
        """
        windows = self._window + keys % self.layout.cells
        gathered = {}
        for name, store in self.columns.items():
            cells = windows[0] if name in self._first_row_only else windows[self._rows[name]]
            gathered[name] = store.take(cells, 0, None if out is None else out[name], "clip")
        return gathered

    def why_no_room(self, slot: int, incarnation: int, rows: int, envs: int) -> str | None:
        """What an unroll must wait for, besides the rate limiter; None if it may go in now."""
        most = 2 * (self.layout.repeated + self.layout.block_rows + rows + 1) * envs  # with a skipped end of the ring
        if self.reuse_limit is None or self.head + most <= self.reuse_limit:
            return None
        block = self._open.get((slot, incarnation))
        if block is not None and block.filled + rows + 1 <= block.rows:
            return None
        start, block_rows = self._place((slot, incarnation), rows, envs)
        return self.why_not_yet(start + block_rows * envs)

    def why_not_yet(self, end: int) -> str | None:
        """Why positions up to `end` may not be written; noted, so that the mark is moved there. None if they may."""
        if self.reuse_limit is None or end <= self.reuse_limit:
            return None
        self.needed = max(self.needed, end)
        return f"positions up to {end} wait for the disk, which allows {self.reuse_limit} (it is written by the server)"

    def end_of_round(self, slots: Set[int], over: Set[int], rows: int, envs: int) -> int:
        """The furthest position of new blocks where each slot sends an unroll of up to [rows, envs].

        Slots whose life goes on in its block need none, but those in `over`, which may send as another life.
        """
        layout = self.layout
        most = layout.room_for(len(slots), rows, envs, layout.open_blocks)
        oldest = self.head + most - layout.capacity  # blocks in front of it may be evicted meanwhile
        stay = [(slot, block) for (slot, _), block in self._open.items() if block.start >= oldest]
        go_on = {slot for slot, block in stay if block.filled + rows + 1 <= block.rows}
        blocks, lives = len(slots - (go_on - over)), max(layout.open_blocks, len(stay))
        return self.head + layout.room_for(blocks, rows, envs, lives)

    def _open_block(
        self, life: Life, old: Block | None, columns: Columns, rows: int, envs: int, first_round: int, restarted: bool
    ) -> Block:
        """Make room at the head, and begin the block with the rows that its first windows need."""
        if abs(first_round) > MOST_ROUNDS:
            raise ItemRejectedError(
                f"slot {life[0]} would have begun at round {first_round}; rounds are {-MOST_ROUNDS} to {MOST_ROUNDS}"
            )
        start, block_rows = self._place(life, rows, envs)
        self._make_room(start, block_rows * envs)
        kept = None if restarted else self._open.get(life)  # None also if `old` was evicted for the room
        if kept is not None:
            filled = min(self.layout.repeated, kept.filled)
            moved = kept.filled - filled
            low = max(kept.low, kept.filled - self.layout.after + 1) - moved  # the first row that is no item yet
        else:
            begins = restarted or (old is None and life not in self._lost)
            filled, low = self.layout.before if begins else 0, self.layout.before
        block = Block(self._free_blocks.pop(), life, start, envs, block_rows, low, filled, first_round)
        self.files.write_block(block)
        self.files.begin_rows(block, kept, columns)
        self.head = block.end
        self._order.append(block)
        self._open[life] = block
        return block

    def _place(self, life: Life, rows: int, envs: int) -> tuple[int, int]:
        """Where a new block for unrolls of [rows, envs] begins, and its rows. ItemRejectedError where none fits."""
        layout, size = self.layout, self.layout.capacity
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
        return layout.place(self.head, cells), block_rows

    def _make_room(self, start: int, cells: int) -> None:
        """Evict until that many cells from `start` on are free."""
        size = self.layout.capacity
        while self._order and (start + cells - self.tail > size or not self._free_blocks):
            self._evict()
        if start + cells - self.tail > size:  # nothing is left, but the tail lags behind the skipped end
            self.tail = start
            self.files.record_eviction(self.tail, self.evicted)

    def _evict(self) -> None:
        """Drop the oldest block. The tail moves before any of its cells is written again."""
        block = self._order.popleft()
        if self._open.get(block.life) is block:
            del self._open[block.life]
            line = self._lost[block.life] = self._free_writers.pop()
            self.files.write_writer(line, block.life, block.first_round, self.files.last_seq(block))
        live = self.files.view(self.live, block)
        self.items -= block.items if self.times is None else int(np.count_nonzero(live))
        live.fill(0)
        self.evicted += block.items
        self._free_blocks.append(block.number)
        self.tail = self._order[0].start if self._order else block.end
        self.files.record_eviction(self.tail, self.evicted)
        if self.index is not None:
            self.index.vanished(block.start % self.layout.cells, block.envs * block.rows)

    def _forget_lost(self, life: Life) -> None:
        line = self._lost.pop(life, None)
        if line is not None:
            self.files.writers[line, W_SEQ] = 0
            self._free_writers.append(line)
