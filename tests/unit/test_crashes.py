"""A replay ring whose server is killed before any one of its stores: what was acknowledged is there, exactly once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.mapped import EPOCH, TAIL
from core.types import Columns
from replay_server.dedupe import Life
from replay_server.ring import Ring
from replay_server.ring_files import COMMIT, FILLED_BITS, RESTORING, Block
from replay_server.table_folder import TableFolder
from tests.unit.crashing import LAYOUT, CrashError, Op, State, Stores, contents, opened, play, script, state

OPS = script(5, 75)


class Killed:
    """A run of `OPS` that nobody kills, and runs of the same that somebody does."""

    def __init__(self, kind: Callable[..., Ring] = Ring) -> None:
        self.kind = kind
        self.states = [State()]
        self.begins: list[int] = []
        with tempfile.TemporaryDirectory() as folder:
            stores = Stores()
            with opened(Path(folder), Ring, stores) as table:
                self.made = stores.done
                for op in OPS:
                    self.begins.append(stores.done)
                    play(table, op)
                    self.states.append(state(table.ring))
            self.stores = stores.done

    def check(self, crash_at: int) -> None:
        """Killed before store number `crash_at`: what is found, and what comes of it when all goes on."""
        path = Path(tempfile.mkdtemp())
        try:
            self._check(path, crash_at)
        finally:
            shutil.rmtree(path)

    def _check(self, path: Path, crash_at: int) -> None:
        with opened(path, self.kind, Stores(crash_at)) as table:
            at = play_until_killed(table, self.states)
        with opened(path) as table:
            done = found(table.ring, OPS[at], self.states[at], self.states[at + 1])
            drawn = OPS[at].kind == "draw"  # of one that is repeated more is drawn
            if not done:
                play(table, OPS[at])
                assert drawn or state(table.ring) == self.states[at + 1]
            for op in OPS[at + 1 :]:
                play(table, op)
            assert drawn or state(table.ring) == self.states[-1]


def play_until_killed(table: TableFolder, states: list[State]) -> int:
    """Returns in which operation."""
    for at, op in enumerate(OPS):
        epoch = int(table.ring.files.header[EPOCH])
        try:
            play(table, op)
        except CrashError:
            check_readers(table.ring, epoch, states[at])
            return at
    raise AssertionError("nobody was killed")


def check_readers(ring: Ring, epoch: int, before: State) -> None:
    """Who maps the files believes every key from the tail on, as long as the epoch is the same."""
    header = ring.files.header
    if int(header[EPOCH]) == epoch:
        keys = np.array([key for key in before.items if key >= int(header[TAIL])], np.int64)
        windows = contents(ring, keys)
        assert all(windows[key][:3] == before.items[key][:3] for key in keys.tolist()), "a reader sees other rows"


def found(ring: Ring, op: Op, before: State, after: State) -> bool:
    """Check what a restart found, killed in `op`; returns whether that was done."""
    now = state(ring)
    assert int(ring.files.header[TAIL]) == ring.tail
    assert int(ring.files.header[RESTORING]) == 0
    assert not ring._lost.keys() & ring._open.keys()
    if op.kind == "rollback":
        assert now in (before, after)
        return now == after
    if op.kind == "draw":
        assert after.items.items() <= now.items.items() <= before.items.items()
        assert all(before.times[key] <= times for key, times in now.times.items())
        assert all(times <= after.times[key] for key, times in now.times.items() if key in after.times)
        assert (now.inserted, now.evicted, now.lives) == (before.inserted, before.evicted, before.lives)
        return False
    if op.kind == "insert" and now.lives.get(op.life, 0) < op.seq:
        gone = {key for key in before.items if key < ring.tail}  # evicted for the room, to the last one of a block
        assert gone <= before.items.keys() - after.items.keys()
        assert now.items == {key: item for key, item in before.items.items() if key not in gone}
        assert now.times == {key: times for key, times in before.times.items() if key not in gone}
        assert (now.inserted, now.lives) == (before.inserted, before.lives)
        assert before.evicted + len(gone) <= now.evicted <= after.evicted
        return False
    done = op.kind == "insert" or now.lives != before.lives
    assert now == (after if done else before)
    return done


@pytest.fixture(scope="module")
def killed() -> Killed:
    return Killed()


def test_the_script_does_all_that_a_ring_does(killed: Killed) -> None:
    last, states = killed.states[-1], killed.states
    assert last.evicted > 50
    kinds = {op.kind for op in OPS}
    assert kinds == {"insert", "end", "draw", "checkpoint", "rollback"}
    assert max(max(s.items, default=0) for s in states) > LAYOUT.cells
    back = [i for i, op in enumerate(OPS) if op.kind == "rollback"]
    exact = [states[i + 1] in states[:i] for i in back]
    assert any(exact)
    assert not all(exact)  # one came too late for all blocks
    assert killed.stores - killed.made > 500


@pytest.mark.slow
def test_killed_before_any_store_all_that_was_acknowledged_is_there_once(killed: Killed) -> None:
    assert killed.begins[0] == killed.made
    for crash_at in range(killed.made, killed.stores):
        try:
            killed.check(crash_at)
        except Exception as error:
            error.add_note(f"killed before store {crash_at}")
            raise


class CommitsFirst(Ring):
    """The commit before the columns."""

    def insert(self, slot: int, incarnation: int, seq: int, columns: Columns, rows: int, envs: int, **more: Any) -> int:
        self.early = seq << FILLED_BITS, rows
        block = self._open.get((slot, incarnation))
        if block is not None and block.filled + rows + 1 <= block.rows:
            self._commit(block)
        return super().insert(slot, incarnation, seq, columns, rows, envs, **more)

    def _open_block(self, *args: Any) -> Block:
        block = super()._open_block(*args)
        self._commit(block)
        return block

    def _commit(self, block: Block) -> None:
        self.files.blocks[block.number, COMMIT] = self.early[0] | block.filled + self.early[1]


class MovesTheTailLate(Ring):
    """Cells are written again before it is said that what was there is gone."""

    def insert(self, *args: Any, **more: Any) -> int:
        record = self.files.record_eviction
        late: list[tuple[int, int]] = []
        self.files.record_eviction = lambda tail, evicted: late.append((tail, evicted))  # type: ignore[method-assign]
        try:
            return super().insert(*args, **more)
        finally:
            self.files.record_eviction = record  # type: ignore[method-assign]
            for tail, evicted in late:
                record(tail, evicted)


class ForgetsLostLivesFirst(Ring):
    """The counter of a life without blocks goes before its next block is committed."""

    def _open_block(self, life: Life, *args: Any) -> Block:
        block = super()._open_block(life, *args)
        line = self._lost.get(life)
        if line is not None:
            self.files.writers[line, 3] = 0
        return block


class EvictsBeforeItNotesTheLife(Ring):
    """The counter of a life comes after its last block is gone."""

    def _evict(self) -> None:
        write, late = self.files.write_writer, list[tuple[Any, ...]]()
        self.files.write_writer = lambda *line: late.append(line)  # type: ignore[method-assign]
        super()._evict()
        self.files.write_writer = write  # type: ignore[method-assign]
        for line in late:
            write(*line)


class RaisesTheLargestFirst(Ring):
    """The largest priority of an unroll comes before its commit."""

    def insert(self, slot: int, incarnation: int, seq: int, columns: Columns, rows: int, envs: int, **more: Any) -> int:
        priority, store = columns["priority"], self.files.store_priorities

        def and_the_largest(*args: Any, **more: Any) -> float:
            largest = store(*args, **more)
            self.max_priority = max(self.max_priority, float(priority.max(where=np.isfinite(priority), initial=0.0)))
            return largest

        self.files.store_priorities = and_the_largest  # type: ignore[method-assign]
        try:
            return super().insert(slot, incarnation, seq, columns, rows, envs, **more)
        finally:
            self.files.store_priorities = store  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [CommitsFirst, MovesTheTailLate, ForgetsLostLivesFirst, EvictsBeforeItNotesTheLife, RaisesTheLargestFirst],
)
def test_other_orders_of_stores_are_found_out(killed: Killed, kind: type[Ring]) -> None:
    wrong = Killed(kind)
    assert wrong.states == killed.states  # without a kill nobody sees a difference

    def all_of_them() -> None:
        for crash_at in reversed(range(wrong.made, wrong.stores)):  # most of what may go wrong comes late
            wrong.check(crash_at)

    with pytest.raises(AssertionError):
        all_of_them()
