"""How a ring is divided into blocks: sizes, and whether they fit. Pure arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from core.errors import ConfigError
from core.mapped import UNSTORED
from core.specs import Signature

BLOCK_ROWS = 256
"""Rows that a block has room for besides those it repeats, where the capacity allows: 1 to 2 per cent are repeated."""

LEAST_BLOCK = 64
"""Cells that a block should have at least where many must fit: for smaller ones the lines of blocks would not do."""

MAX_BLOCK_ROWS = 1 << 23
"""Filled rows share the 8 bytes of the commit with the seq: 24 bits of them."""

MAX_LIVES = 16384
"""Lives that a table knows at once."""

HEADER_WORDS, BLOCK_WORDS, WRITER_WORDS = 24, 16, 4
"""Of 8 bytes, in the header and in a line of blocks and of writers: ring_files.py says what they hold."""


@dataclass(frozen=True)
class RingLayout:
    """The numbers of one ring.

    `cells` is its capacity in rows, and `spare` more of them that keep what was evicted last for a rollback. A few per
    cent never are items: rows that a block repeats, rows on which an environment resets, the rest of a block whose
    life ended. `before` and `after` are the rows of a window in front
    of an item's row and from it on. `open_blocks` is how many lives are expected to write at once.
    """

    cells: int
    before: int = 0
    after: int = 1
    min_size: int = 1
    open_blocks: int = 1
    block_rows: int = BLOCK_ROWS
    evict: bool = True
    spare: int = 0

    @property
    def capacity(self) -> int:
        """Rows that may be in the table at once."""
        return self.cells - self.spare

    @property
    def most_blocks(self) -> int:
        """Blocks that may be in the table at once. A function of what never changes in place: the size of a file.

        A block has more than half of the cells that `share` leaves to it, or of `block_rows`: whole unrolls must fit.
        """
        return 64 + 2 * self.cells // self.least_block

    @property
    def least_block(self) -> int:
        """Cells that `share` must leave to a block so that `most_blocks` are enough, however large the ring is."""
        return min(LEAST_BLOCK, self.block_rows)

    @property
    def repeated(self) -> int:
        """Rows of the block before that a new block repeats, so that no window spans two blocks."""
        return self.before + self.after - 1

    def block_rows_for(self, rows: int, envs: int, open_blocks: int, free_cells: int | None = None) -> int:
        """Rows [per environment] of a new block for unrolls of `rows` rows: shorter where many blocks must fit.

        `free_cells` bounds the block where nothing may be evicted. At least one unroll fits in any block.
        """
        most = min(self.block_rows, MAX_BLOCK_ROWS) + self.repeated + 1
        most = min(most, self.share(open_blocks) // envs)
        if free_cells is not None:
            most = min(most, free_cells // envs)
        unrolls = max(1, (most - self.repeated - 1) // rows)
        return self.repeated + unrolls * rows + 1

    def share(self, open_blocks: int) -> int:
        """Cells for a block where so many lives write: all of theirs together are at most half of the ring."""
        return max(0, self.capacity - self.min_size) // (2 * open_blocks)

    def place(self, head: int, cells: int) -> int:
        """The position at which a new block of so many cells begins: it does not cross the end of the ring."""
        to_end = self.cells - head % self.cells
        return head if cells <= to_end else head + to_end

    def room_for(self, blocks: int, rows: int, envs: int, open_blocks: int) -> int:
        """The most cells that so many new blocks take, for unrolls of up to [rows, envs], with a skipped end."""
        most = min((self.block_rows + self.repeated + 1) * envs, self.share(open_blocks))
        return (blocks + 1) * max(most, self.smallest_block(rows, envs)) if blocks else 0

    def smallest_block(self, rows: int, envs: int) -> int:
        """Cells of a block with room for one unroll of [rows, envs]."""
        return (self.repeated + rows + 1) * envs

    def problem(self, open_blocks: int, rows: int, envs: int) -> str | None:
        """Why `open_blocks` lives that send unrolls of [rows, envs] do not fit, in numbers; None if they do."""
        block = self.smallest_block(rows, envs)
        need = 2 * open_blocks * block + self.min_size
        if self.capacity < need:
            return (
                f"the table holds {self.capacity} rows, but {open_blocks} actors that send {rows} rows of {envs} "
                f"environments need 2 x {open_blocks} blocks x ({self.before} + {self.after} + {rows} rows) x {envs} + "
                f"min_size {self.min_size} = {need}; set capacity to {need} or more, or use fewer actors, fewer "
                f"environments an actor or shorter unrolls"
            )
        share, least = self.share(open_blocks), -(-2 * self.capacity // self.most_blocks)
        if share >= least:
            return None
        enough = 2 * open_blocks * max(block, self.least_block) + self.min_size
        return (
            f"the table leaves each of {open_blocks} actors a block of (capacity {self.capacity} - min_size "
            f"{self.min_size}) / (2 x {open_blocks}) = {share} rows, but it keeps at most {self.most_blocks} blocks, "
            f"enough for those of {least} rows or more; set capacity to {enough} or more, or use fewer actors or a "
            "smaller min_size"
        )


def ring_bytes(
    signature: Signature,
    layout: RingLayout,
    *,
    priorities: bool = False,
    count_times: bool = False,
    max_lives: int = MAX_LIVES,
) -> int:
    """All that a ring takes: its arrays, the map of its items, and with priorities the sum tree over its cells."""
    cells = layout.cells
    row = sum(column.array.nbytes for name, column in signature.columns.items() if name != UNSTORED) + 1
    tree = 16 << (cells - 1).bit_length() if priorities and cells else 0
    words = HEADER_WORDS + layout.most_blocks * BLOCK_WORDS + (max_lives + 1) * WRITER_WORDS
    return cells * (row + 4 * priorities + 4 * count_times) + tree + 8 * words


def fit_ring(
    signature: Signature,
    capacity: int,
    *,
    before: int = 0,
    after: int = 1,
    min_size: int = 1,
    open_blocks: int = 1,
    capacity_bytes: int | None = None,
    block_rows: int = BLOCK_ROWS,
    evict: bool = True,
    spare: int = 0,
    priorities: bool = False,
    count_times: bool = False,
) -> RingLayout:
    """The layout of a ring of at most `capacity` rows and `capacity_bytes`. ConfigError names all that does not fit."""
    problems = []
    if before < 0 or after < 1:
        problems.append(f"a window of before {before} and after {after} rows; set before >= 0 and after >= 1")
    if spare < 0:
        problems.append(f"spare_rows is {spare}; set 0 or more")
    if min_size < 1 or open_blocks < 1 or block_rows < 1 or capacity < 1:
        problems.append(
            f"capacity {capacity}, min_size {min_size}, open_blocks {open_blocks} and block_rows {block_rows} must all "
            f"be 1 or more"
        )
    if "valid" not in signature.columns or signature.columns["valid"].extra_rows != 0:
        problems.append("a replay table needs a column 'valid' with no extra rows: it says which rows are items")
    wrong = sorted(name for name, column in signature.columns.items() if column.extra_rows not in (0, 1))
    if wrong:
        problems.append(f"columns {wrong}: a replay table takes 0 or 1 extra rows (it has the rows in front already)")
    if signature.max_rows > MAX_BLOCK_ROWS:
        problems.append(f"max_rows is {signature.max_rows}, the limit is {MAX_BLOCK_ROWS}: send shorter unrolls")
    ConfigError.raise_if(problems)

    def of(rows: int) -> RingLayout:
        return RingLayout(rows + spare, before, after, min_size, open_blocks, block_rows, evict, spare)

    def nbytes(rows: int) -> int:
        return ring_bytes(signature, of(rows), priorities=priorities, count_times=count_times)

    rows = capacity if capacity_bytes is None else bisect_right(range(1, capacity + 1), capacity_bytes, key=nbytes)
    problem = of(rows).problem(open_blocks, signature.max_rows, signature.max_envs)
    if problem is not None and rows < capacity:
        problem += (
            f" (capacity_bytes {capacity_bytes:,} has room for {rows} rows, of capacity {capacity}; a table takes "
            f"{nbytes(0):,} bytes without any)"
        )
    ConfigError.raise_if([problem] if problem else [])
    return of(rows)
