"""Files whose writer is killed before any store that one likes, and a script of what a ring does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Array, Columns
from replay_server.data_dir import DataDir
from replay_server.dedupe import Life
from replay_server.definition import ReplayDefinition
from replay_server.draws_left import DrawsLeft
from replay_server.layout import RingLayout
from replay_server.ring import Ring
from replay_server.ring_files import RingFiles
from replay_server.samplers import Items, Keys, Probabilities, UniformSampler
from replay_server.storage import FileAllocator
from replay_server.table_folder import TableFolder
from tests.unit.counting import CountingLife, signature

MAX_ROWS, ENVS, MOST_TIMES = 4, 2, 2
LAYOUT = RingLayout(200, 1, 2, block_rows=8, open_blocks=3, spare=60)
PLAIN = signature(MAX_ROWS, ENVS)
SPEC = Signature({**PLAIN.columns, "priority": ColumnSpec(ArraySpec((), "float32"))}, MAX_ROWS, ENVS)
DEFINITION = ReplayDefinition("t", SPEC, LAYOUT.cells, 8, 2, 1, 0.0, 1, 2, 3)


class CrashError(Exception):
    """Here the process is killed."""


@dataclass
class Stores:
    """Counts them; the one number `crash_at`, of several elements, is done by half, and is the last."""

    crash_at: int = -1
    done: int = 0

    def crashes(self) -> bool:
        self.done += 1
        return self.done - 1 == self.crash_at


class Stored(np.ndarray[Any, Any]):
    """An array whose stores are counted, through views of it too."""

    stores: Stores | None = None

    def __array_finalize__(self, obj: Any) -> None:
        self.stores = getattr(obj, "stores", None)

    def __setitem__(self, key: Any, value: Any) -> None:
        in_file = not self.flags.owndata  # else a copy
        if self.stores is None or not (in_file and self.stores.crashes()):
            super().__setitem__(key, value)
            return
        before = np.array(self[key])
        if before.size > 1:
            super().__setitem__(key, value)
            half = np.array(self[key])
            half.flat[half.size // 2 :] = before.flat[half.size // 2 :]
            super().__setitem__(key, half)
        raise CrashError

    def fill(self, value: Any) -> None:
        self[...] = value


class CrashingAllocator:
    """Over a real one."""

    def __init__(self, files: FileAllocator, stores: Stores) -> None:
        self._files, self._stores, self.existing = files, stores, files.existing

    def allocate(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        array = self._files.allocate(name, shape, dtype).view(Stored)
        array.stores = self._stores
        return array

    def sync(self) -> None:
        self._files.sync()


class Op(NamedTuple):
    """What is done: insert, end, draw, checkpoint or rollback; with a life and its unroll, or a round."""

    kind: str
    life: Life = (0, 0)
    seq: int = 0
    columns: Columns | None = None
    round: int = 0


class FromTheOldest(UniformSampler):
    """No chance in it."""

    def keys(self, ring: Items, n: int, rng: np.random.Generator, strata: int = 1) -> tuple[Keys, Probabilities | None]:
        keys = np.arange(ring.tail, ring.head)
        return keys[ring.live[keys % len(ring.live)] != 0][np.arange(n) // 2], None


@dataclass
class State:
    """What is in a ring: key -> window and priority, and how often it was drawn; the seq of each open life."""

    items: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    lives: dict[Life, int] = field(default_factory=dict)
    inserted: int = 0
    evicted: int = 0


def state(ring: Ring) -> State:
    keys = np.arange(ring.tail, ring.head)
    keys = keys[ring.alive(keys)]
    assert ring.items == len(keys)
    assert ring.priority is not None
    assert ring.times is not None
    cells = keys % ring.layout.cells
    times = dict(zip(keys.tolist(), ring.times[cells].tolist(), strict=True))
    return State(contents(ring, keys), times, ring.lives(), ring.inserted, ring.evicted)


def contents(ring: Ring, keys: Array) -> dict[int, tuple[Any, ...]]:
    assert ring.priority is not None
    columns = ring.gather(keys)
    parts = [
        columns["obs"][:, :, 0].T.tolist(),
        columns["reward"].T.tolist(),
        columns["valid"].T.tolist(),
        ring.priority[keys % ring.layout.cells].tolist(),
    ]
    return dict(zip(keys.tolist(), zip(*parts, strict=True), strict=True))


def script(seed: int, length: int) -> list[Op]:
    """Two quick lives and a slow one; they end and begin again, items are drawn out, and the ring goes back."""
    rng, ops = np.random.default_rng(seed), list[Op]()
    lives = [CountingLife(slot, 1, ENVS, rng, end=0.1) for slot in range(3)]
    round_, open_then = 0, list[Life]()
    for step in range(length):
        slot = 2 if step % 17 == 3 else int(rng.integers(2))
        life = lives[slot]
        columns = life.unroll(int(rng.integers(1, MAX_ROWS + 1)))
        shape = columns["valid"].shape
        unknown = rng.random(shape) < 0.4
        columns["priority"] = np.where(unknown, np.inf, rng.random(shape) * step).astype(np.float32)
        ops.append(Op("insert", (slot, life.incarnation), life.seq, columns))
        if step % 13 == 12 and slot != 2:
            ops.append(Op("end", (slot, life.incarnation)))
            lives[slot] = CountingLife(slot, life.incarnation + 1, ENVS, rng, end=0.1)
        if step % 10 == 7:
            ops.append(Op("draw"))
        if step % 24 == 8:
            round_ += 1
            open_then = [(life.slot, life.incarnation) for life in lives if life.seq]
            ops.append(Op("checkpoint", round=round_))
        if step in (14, 28, 52):  # soon, and after blocks of the round are written over
            ops.append(Op("rollback", round=round_))
            ops += [Op("end", life) for life in open_then]  # more open lives than expected make shorter blocks
            lives = [CountingLife(slot, step + 100 + slot, ENVS, rng, end=0.1) for slot in range(3)]
    return ops


def play(folder: TableFolder, op: Op) -> None:
    ring, (slot, incarnation) = folder.ring, op.life
    if op.columns is not None:
        rows, envs = op.columns["valid"].shape
        ring.insert(slot, incarnation, op.seq, op.columns, rows, envs, round=op.seq)
    elif op.kind == "end":
        ring.end_life(slot, incarnation)
    elif op.kind == "draw":
        DrawsLeft(ring).draw(FromTheOldest(), 10, np.random.default_rng(0), 1)
    elif op.kind == "checkpoint":
        folder.checkpoint(op.round)()
    else:
        folder.rollback(op.round)


@contextmanager
def opened(path: Path, kind: Callable[..., Ring] = Ring, stores: Stores | None = None) -> Iterator[TableFolder]:
    """The table's folder: made there, or opened again as whatever wrote it last left it."""

    def make(allocator: FileAllocator, prepare: Callable[[RingFiles], None]) -> Ring:
        crashing = CrashingAllocator(allocator, stores or Stores())
        return kind(SPEC, LAYOUT, crashing, 8, priorities=True, max_times=MOST_TIMES, prepare=prepare)

    with closing(DataDir(path, durable=False)) as data_dir:
        known = data_dir.tables()
        folder = TableFolder.reopen(data_dir, "t", make) if known else TableFolder.make(data_dir, DEFINITION, make)
        with closing(folder._allocator):
            yield folder
