"""A replay table with files beside a naive one that is told everything, too."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Array
from replay_server.data_dir import DataDir
from replay_server.dedupe import Life
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from tests.unit.counting import STRIDE, CountingLife, signature
from tests.unit.dying_server import move_mark

MAX_ROWS, BEFORE, AFTER = 6, 1, 2
ENVS = (1, 2, 3)
CELLS, BLOCK_ROWS = 900, 8
MOST_BLOCK = (BEFORE + AFTER + BLOCK_ROWS + MAX_ROWS) * max(ENVS)
PLAIN = signature(MAX_ROWS, max(ENVS))
WITH_PRIORITY = Signature({**PLAIN.columns, "priority": ColumnSpec(ArraySpec((), "float32"))}, MAX_ROWS, max(ENVS))
DEFINITION = ReplayDefinition("t", PLAIN, 840, 4, 8, 1, 0.0, BEFORE, AFTER, 3, spare_rows=60)
PRIORITISED = replace(DEFINITION, signature=WITH_PRIORITY, sampler="prioritised")


@dataclass
class Model:
    """What must be in the table. Keys are the table's; which row they mean is found when they appear."""

    items: dict[int, int] = field(default_factory=dict)  # key -> number of its row
    priority: dict[int, float] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    lives: dict[Life, int] = field(default_factory=dict)
    inserted: int = 0
    sampled: int = 0
    largest: float = 1.0


class CheckedTable:
    """One table, three slots; `valid` and `sent` say what was ever sent, under numbers that no two rows share."""

    durable, definition = False, DEFINITION
    rng: np.random.Generator
    lives: list[CountingLife]

    def make(self) -> None:
        """A table in a new directory."""
        self.path = Path(tempfile.mkdtemp())
        self.data_dir = DataDir(self.path, durable=self.durable)
        self.table = ReplayTable.open(self.definition, data_dir=self.data_dir)
        self.allocator = self.table.folder._allocator
        self.model = Model()
        self.valid: dict[int, bool] = {}
        self.sent: dict[int, float] = {}  # number -> priority that came with it
        self.incarnation = 0
        self.manifest: Model | None = None  # the newest one
        self.rounds: dict[int, tuple[Model, int]] = {}  # -> with the number of the checkpoint
        self.checkpoints = 0
        self.written = 0  # no position from here on was written, as far as the table can know

    def new_life(self, slot: int) -> CountingLife:
        self.incarnation += 1
        return CountingLife(slot, self.incarnation, ENVS[slot], self.rng, end=0.15)

    def insert_one(self, slot: int, rows: int) -> None:
        table, life, model = self.table, self.lives[slot], self.model
        columns = life.unroll(rows)
        header, size = life.header(columns), (rows, life.envs)
        move_mark(table)
        while not table.may_insert(slot, life.incarnation, *size, header.env_steps):
            assert move_mark(table)
        if self.definition.sampler == "prioritised":
            columns["priority"] = self.rng.choice([0.0, 0.25, 2.0, 7.5, np.inf], size).astype(np.float32)
        assert table.insert(life.incarnation, life.seq, header, columns, size)
        assert not table.insert(life.incarnation, life.seq, header, columns, size)
        model.lives[slot, life.incarnation] = life.seq
        priority = columns.get("priority", np.ones(size))
        for at in np.ndindex(*size):
            number = int(columns["reward"][at])
            self.valid[number] = bool(columns["valid"][at])
            known = np.isfinite(priority[at])
            self.sent[number] = float(priority[at]) if known else model.largest
        model.largest = max(model.largest, *priority[np.isfinite(priority)].tolist(), 1.0)

    def take_up(self) -> None:
        """What appeared must be rows that were sent; what vanished must be the oldest ones."""
        model, now = self.model, self.found()
        gone = model.items.keys() - now.keys()
        assert all(key < self.table.ring.tail for key in gone)
        for key in now.keys() - model.items.keys():
            assert key > max(model.items, default=-1) or key >= self.table.ring.tail
            assert self.valid[now[key]]
            assert now[key] not in model.items.values()
            model.priority[key], model.times[key] = self.sent[now[key]], 0
            model.inserted += 1
        assert all(now[key] == number for key, number in model.items.items() if key not in gone)
        model.items = now
        for key in gone:
            del model.priority[key], model.times[key]

    def let_go(self) -> None:
        self.data_dir.close()
        self.allocator.close()

    def reopen(self) -> None:
        self.let_go()
        self.data_dir = DataDir(self.path, durable=self.durable)
        self.table = ReplayTable.reopen(self.data_dir, "t")
        self.allocator = self.table.folder._allocator

    def take_back(self, saved: Model, written: int, *, as_found: bool = False) -> None:
        """The table must be as it was then, but for the oldest blocks, whose cells may be written over."""
        self.model = model = copy.deepcopy(saved)
        ring, now = self.table.ring, self.found()
        assert now.items() <= model.items.items()
        if as_found:  # a power cut takes priorities and times as it finds them
            model.priority |= self.stored(ring.priority)
            model.times |= self.stored(ring.times)
        for key in model.items.keys() - now.keys():
            drawn = int(ring.times[key % CELLS]) if as_found and ring.times is not None else -1
            drawn_out = 0 < self.definition.max_times_sampled <= drawn
            assert key < written - CELLS + MOST_BLOCK or drawn_out
            del model.items[key], model.priority[key], model.times[key]
        assert ring.lives().items() <= model.lives.items()
        model.lives = ring.lives()
        self.begin_again()

    def begin_again(self) -> None:
        """The actors' lives are of another time."""
        for life in list(self.model.lives):
            self.table.end_life(*life)
        self.model.lives.clear()
        self.lives = [self.new_life(slot) for slot in range(3)]

    def keys(self) -> Array:
        ring = self.table.ring
        keys = np.arange(ring.tail, ring.head)
        return keys[ring.alive(keys)]

    def found(self) -> dict[int, int]:
        keys = self.keys()
        return dict(zip(keys.tolist(), self.numbers(self.table.ring.gather(keys)).tolist(), strict=True))

    def stored(self, array: Array | None) -> dict[int, Any]:
        """What a file says of each item."""
        keys = self.keys()
        return {} if array is None else dict(zip(keys.tolist(), array[keys % CELLS].tolist(), strict=True))

    def numbers(self, columns: dict[str, Array]) -> Array:
        """Of the items' rows; every row of their windows must be the one that was sent."""
        numbers: Array = columns["reward"][BEFORE]
        first = numbers // STRIDE * STRIDE
        rows = numbers + np.arange(-BEFORE, AFTER + 1)[:, None]
        np.testing.assert_array_equal(columns["obs"][..., 0], np.maximum(rows, first))
        real = rows[:-1] >= first
        np.testing.assert_array_equal(columns["reward"], np.where(real, rows[:-1], 0))
        steps = [[self.valid.get(number, False) for number in row] for row in np.where(real, rows[:-1], -1).tolist()]
        np.testing.assert_array_equal(columns["valid"], np.array(steps, np.uint8).reshape(columns["valid"].shape))
        return numbers
