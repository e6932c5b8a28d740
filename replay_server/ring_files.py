"""What a ring's arrays hold beside its columns, word by word: how they are written and read again after a crash.

All words are int64; the arrays are files where the ring is to outlive its process.

    header   [24]         tail, layout version, cells, before, after, epoch, and below; the last ones are free
    blocks   [n, 16]      commit, start, envs, rows, low, slot, incarnation, closed, first round; free if start < tail
    writers  [lives, 4]   slot, incarnation, first round, seq of open lives whose blocks are all evicted; free if seq 0
    priority [cells]      float32, before the exponent: prioritised tables only
    times    [cells]      uint32, how often an item was drawn: tables with max_times_sampled only

A `kill -9` keeps every store in its order, so one aligned store commits what was stored before it: `commit` (seq << 24
| filled) an unroll, `selector` an eviction (two records of tail and evicted take turns), `restoring` a return to a
manifest. A power cut keeps nothing of that order; see manifest.py.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.mapped import AFTER, EPOCH, LAYOUT_VERSION, TAIL, UNSTORED
from core.specs import Signature
from core.types import Array, Columns
from replay_server.dedupe import Life
from replay_server.layout import BLOCK_WORDS, HEADER_WORDS, WRITER_WORDS, RingLayout
from replay_server.storage import Allocator

VERSION = 3
BOOT, SELECTOR, RECORDS = 6, 7, 8
"""Two records of (tail, evicted); word `selector` says which one holds."""
MAX_PRIORITY, SAMPLED, RESTORING, RESTORING_HEAD, LEARNER = range(12, 17)

COMMIT, START, ENVS, ROWS, LOW, SLOT, INCARNATION, CLOSED, FIRST_ROUND = range(9)
FILLED_BITS = 24
FILLED_MASK = (1 << FILLED_BITS) - 1
W_SLOT, W_INCARNATION, W_FIRST_ROUND, W_SEQ = range(4)


@dataclass(slots=True, eq=False)
class Block:
    """RAM's copy of one line of `blocks`. Rows before `low` are context only; `items` counts those that ever were."""

    number: int
    life: Life
    start: int
    envs: int
    rows: int
    low: int
    filled: int
    first_round: int
    items: int = 0

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.start + self.envs * self.rows


class RingFiles:
    """The arrays of one ring. One thread."""

    def __init__(
        self,
        signature: Signature,
        layout: RingLayout,
        allocator: Allocator,
        *,
        max_lives: int,
        priorities: bool,
        count_times: bool,
    ) -> None:
        make, cells = allocator.allocate, layout.cells
        self.allocator, self.layout = allocator, layout
        self.columns: dict[str, Array] = {
            name: make(f"column.{name}", (cells, *column.array.shape), column.array.dtype)
            for name, column in signature.columns.items()
            if name != UNSTORED
        }
        self.extra = {name: signature.columns[name].extra_rows for name in self.columns}
        self.priority: NDArray[np.float32] | None = make("priority", (cells,), "float32") if priorities else None
        self.times: NDArray[np.uint32] | None = make("times", (cells,), "uint32") if count_times else None
        self.blocks: NDArray[np.int64] = make("blocks", (layout.most_blocks, BLOCK_WORDS), "int64")
        self.writers: NDArray[np.int64] = make("writers", (max_lives + 1, WRITER_WORDS), "int64")
        self.header: NDArray[np.int64] = make("header", (HEADER_WORDS,), "int64")
        known = (VERSION, cells, layout.before, layout.after)
        if not allocator.existing:
            self.header[LAYOUT_VERSION : AFTER + 1] = known
            self.max_priority = 1.0
            self.renew_epoch()
            self.header[BOOT] = boot_id()
        elif tuple(self.header[LAYOUT_VERSION : AFTER + 1].tolist()) != known:
            found = self.header[LAYOUT_VERSION : AFTER + 1].tolist()
            raise ConfigError(
                f"the ring's header says layout version, cells, before, after = {found}, its definition {list(known)}: "
                "the folder is damaged, or of another version of Shoal"
            )

    @property
    def epoch(self) -> int:
        """A random number: another one since the table went back in time, or was made anew."""
        return int(self.header[EPOCH])

    def renew_epoch(self) -> None:
        """From now on keys mean other items."""
        self.header[EPOCH] = secrets.randbits(62) + 1

    @property
    def max_priority(self) -> float:
        """The largest that was ever set, at least 1."""
        return float(self.header[MAX_PRIORITY : MAX_PRIORITY + 1].view(np.float64)[0])

    @max_priority.setter
    def max_priority(self, value: float) -> None:
        self.header[MAX_PRIORITY] = np.float64(value).view(np.int64)

    @property
    def sampled(self) -> int:
        """Items that ever were handed out."""
        return int(self.header[SAMPLED])

    @sampled.setter
    def sampled(self, value: int) -> None:
        self.header[SAMPLED] = value

    @property
    def learner(self) -> int:
        """The incarnation of the learner whose table it is; 0: nobody's."""
        return unsigned(int(self.header[LEARNER]))

    @learner.setter
    def learner(self, incarnation: int) -> None:
        self.header[LEARNER] = signed(incarnation)

    @property
    def evicted_record(self) -> tuple[int, int]:
        """(tail, evicted) as of the last eviction."""
        at = RECORDS + 2 * int(self.header[SELECTOR])
        return int(self.header[at]), int(self.header[at + 1])

    def record_eviction(self, tail: int, evicted: int) -> None:
        """Both at once, before any cell below `tail` is written again."""
        header = self.header
        other = 1 - int(header[SELECTOR])
        header[RECORDS + 2 * other] = tail
        header[RECORDS + 2 * other + 1] = evicted
        header[SELECTOR] = other
        header[TAIL] = tail

    def write_block(self, block: Block) -> None:
        """A block begins; without a commit it does not count."""
        line = self.blocks[block.number]
        line[COMMIT] = 0
        slot, incarnation = block.life
        line[START : FIRST_ROUND + 1] = (
            *(block.start, block.envs, block.rows, block.low, slot, signed(incarnation)),
            *(0, block.first_round),
        )

    def begin_rows(self, block: Block, former: Block | None, columns: Columns) -> None:
        """The rows that a new block's first windows need: the newest of its life's `former` block.

        Without one they are no steps (valid 0), under copies of the first of `columns`. Those below `low` are no items.
        """
        filled, view = block.filled, self.view
        moved = 0 if former is None else former.filled - filled
        for name, store in self.columns.items():
            top, extra = view(store, block), self.extra[name]
            if former is not None:
                top[:, : filled + extra] = view(store, former)[:, moved : former.filled + extra]
            elif extra:
                top[:, : filled + 1] = columns[name][0][:, None]
            else:
                top[:, :filled] = 0
        if former is not None and self.priority is not None:
            view(self.priority, block)[:, :filled] = view(self.priority, former)[:, moved : former.filled]
        if self.times is not None:
            view(self.times, block)[:, :filled] = 0

    def store_priorities(self, block: Block, rows: int, priority: Array | None) -> float:
        """Of its next rows. Returns the largest that is known.

        One that is not known yet (+inf) is the largest so far: each item is drawn soon.
        """
        assert self.priority is not None
        largest = np.float32(self.max_priority)
        stored = self.view(self.priority, block)[:, block.filled : block.filled + rows]
        if priority is None:
            stored[:] = largest
            return 0.0
        known = np.isfinite(priority)
        stored[:] = np.where(known, priority, largest).swapaxes(0, 1)
        return float(priority.max(where=known, initial=0.0))

    def view(self, store: Array, block: Block) -> Array:
        """The block's part of an array over cells: [envs, rows, ...]."""
        at = block.start % self.layout.cells
        part: Array = store[at : at + block.envs * block.rows]
        return part.reshape((block.envs, block.rows, *store.shape[1:]))

    def last_seq(self, block: Block) -> int:
        """The seq of its newest unroll."""
        return int(self.blocks[block.number, COMMIT]) >> FILLED_BITS

    def write_writer(self, line: int, life: Life, first_round: int, seq: int) -> None:
        """An open life without a block; the seq comes last, it commits."""
        words = self.writers[line]
        words[:W_SEQ] = life[0], signed(life[1]), first_round
        words[W_SEQ] = seq


def signed(incarnation: int) -> int:
    """64 random bits as an int64 word."""
    return incarnation - (1 << 64) if incarnation >> 63 else incarnation


def unsigned(word: int) -> int:
    """The inverse of `signed`."""
    return word & ((1 << 64) - 1)


def boot_id() -> int:
    """63 bits of what the kernel calls this boot; 0 where it does not say. Another one: the power was off since."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return 0
    return int(text.strip().replace("-", "")[:15], 16)
