"""The replay table: a ring, a sampler, a rate limiter, and what is staged. Pure, one thread; the service asks first.

An insert: next_seq (duplicates need no room) -> may_insert -> insert. A sample: may_sample -> sample. In lag mode
unrolls are staged, and why_apply_waits -> apply puts a round's into the ring in the order of slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.errors import ReplayError, SchemaError
from core.types import Array, Columns, UnrollHeader
from replay_server.data_dir import DataDir, read_definition
from replay_server.definition import ReplayDefinition
from replay_server.draws_left import DrawsLeft
from replay_server.reports import Drawn, Reports, TableStats
from replay_server.samplers import UniformSampler
from replay_server.settings import check_change, check_priorities, make_sampler, plan
from replay_server.staging import Staging
from replay_server.table import Size, Table
from replay_server.table_folder import TableFolder, open_ring


class ReplayTable(Table):
    """Items are valid rows; their keys are positions in the ring, a sample is their windows."""

    def __init__(
        self,
        definition: ReplayDefinition,
        *,
        data_dir: DataDir | None = None,
        existing: bool = False,
        max_lives: int = 16384,
    ) -> None:
        """The table that `open` and `reopen` make. Raises ConfigError with all that does not fit."""
        super().__init__(definition.signature, max_lives)
        self.definition, parts = definition, plan(definition)
        self.limiter = parts.limiter
        self.ring, self._folder = open_ring(definition, parts.layout, max_lives, data_dir, existing=existing)
        self._sampler = make_sampler(definition, self.ring)
        self._draws_left = DrawsLeft(self.ring)
        self.reports = Reports()
        """Headers of the unrolls that came, in lag mode of those that were staged."""
        self._staging = Staging(self._put, self._note, self._end_life)
        self._unknown_keys = self._lost_items = 0
        self._take_over()

    @classmethod
    def open(cls, definition: ReplayDefinition, *, data_dir: DataDir | None = None) -> ReplayTable:
        """A new table: in this process's memory, or in a data directory. ConfigError says all that does not fit."""
        return cls(definition, data_dir=data_dir)

    @classmethod
    def reopen(cls, data_dir: DataDir, name: str) -> ReplayTable:
        """The table that the data directory holds. Raises ConfigError."""
        return cls(read_definition(data_dir.folder(name)), data_dir=data_dir, existing=True)

    def _take_over(self) -> None:
        """What the ring's files knew of lives and counts."""
        self._dedupe.clear()
        for life, seq in self.ring.lives().items():
            forgotten = self._dedupe.record(*life, seq)
            if forgotten is not None:  # killed before it was ended
                self.ring.end_life(*forgotten)
        self.limiter.inserted, self.limiter.sampled = self.ring.inserted, self.ring.files.sampled
        self._staging.begin(self.ring.last_rounds)

    def adopt(self, definition: ReplayDefinition) -> list[str]:
        """What is asked for wins over what is there; returns "field: old -> new". ConfigError where files cannot."""
        changed = definition.differences(self.definition)
        check_change(definition.name, changed)
        if changed:
            parts = plan(definition)
            if self._folder is not None:
                self._folder.write_definition(definition)  # first: where that fails, nothing has changed
            parts.limiter.inserted, parts.limiter.sampled = self.limiter.inserted, self.limiter.sampled
            self.definition, self.limiter, self.ring.layout = definition, parts.limiter, parts.layout
            self.ring.files.layout = parts.layout
            if "priority_exponent" in changed:
                self._sampler = make_sampler(definition, self.ring)
        return [f"{name}: {change}" for name, change in changed.items()]

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def epoch(self) -> int:
        """Another number: the table was made anew or went back in time."""
        return self.ring.files.epoch

    @property
    def directory(self) -> str:
        """Of its files; "" where it has none."""
        return "" if self._folder is None else str(self._folder.path.absolute())

    @property
    def durable(self) -> bool:
        """Whether manifests bound what a power cut loses."""
        return self._folder is not None and self._folder.durable

    @property
    def max_items(self) -> int:
        """Of one draw."""
        return self.limiter.max_sample

    @property
    def inserted(self) -> int:
        """Items that ever came in."""
        return self.limiter.inserted

    @property
    def sampled(self) -> int:
        """Items that ever were handed out."""
        return self.limiter.sampled

    # ------------------------------------------------------------------------------------------ inserts

    def may_insert(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> bool:
        """Whether an unroll of so many valid rows may go in now."""
        if self.ring.why_no_room(slot, incarnation, rows, envs) is not None:
            return False
        fewer = self._draws_left.fewer_than  # then not every draw can make room: an insert goes, or both would wait
        return self.limiter.may_insert(env_steps) or fewer(self.max_items)

    def why_insert_waits(self, slot: int, incarnation: int, rows: int, envs: int, env_steps: int) -> str | None:
        """The arithmetic that holds an insert back; None if it may go."""
        if self.may_insert(slot, incarnation, rows, envs, env_steps):
            return None
        return self.ring.why_no_room(slot, incarnation, rows, envs) or self.limiter.why_insert_waits(env_steps)

    def why_no_life(self, open_lives: int) -> str | None:
        """Why the ring has no room for so many lives that write at once, in numbers; None if it has."""
        return self.ring.layout.problem(open_lives, self.signature.max_rows, self.signature.max_envs)

    def insert(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Append an unroll to its life's block; False for a known duplicate.

        SchemaError or ItemRejectedError when it cannot be taken, and nothing has changed.
        """
        if not self._is_new(header.slot, incarnation, seq):
            return False
        self._put(incarnation, seq, header, columns, size)
        self.reports.add(header)
        self._note(incarnation, seq, header)
        return True

    def _put(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> None:
        check_priorities(columns)
        unroll = (header.slot, incarnation, seq, columns, *size)
        self.limiter.record_insert(self.ring.insert(*unroll, round=header.round, restarted=header.restarted))

    def _note(self, incarnation: int, seq: int, header: UnrollHeader) -> None:
        forgotten = self._record(incarnation, seq, header)
        if forgotten is not None:
            self.ring.end_life(*forgotten)

    def end_life(self, slot: int, incarnation: int) -> None:
        """A life has ended: its block takes no more rows, its counter is forgotten."""
        self._end_life(slot, incarnation)
        self._staging.end_life(slot, incarnation)

    def _end_life(self, slot: int, incarnation: int) -> None:
        super().end_life(slot, incarnation)
        self.ring.end_life(slot, incarnation)

    def ended_lives(self) -> list[tuple[int, int]]:
        """Lives that were over when the table was recovered."""
        return self.ring.ended

    # ------------------------------------------------------------------------------------------ lag mode

    def next_seq_sent(self, slot: int, incarnation: int) -> int:
        """The seq that is expected next, with what is staged counted in."""
        return self.next_seq(slot, incarnation) + self._staging.sent((slot, incarnation))

    def stage(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Keep an unroll until its round is applied; False where it is known or comes too late."""
        if seq < self.next_seq_sent(header.slot, incarnation):
            self._duplicates += 1
            return False
        check_priorities(columns)
        fresh = self._staging.add(incarnation, seq, header, columns, size)
        if fresh:
            self.reports.add(header)
        else:
            self._duplicates += 1
        return fresh

    def why_apply_waits(self, round_: int, slots: Sequence[int]) -> str | None:
        """Who has not delivered, or what there is no room for; None if the round may be applied."""
        missing = self._staging.missing(round_, slots)
        if missing:
            return f"round {round_} waits for the unrolls of slots {missing}: their actors must deliver"
        if self.ring.reuse_limit is None:
            return None
        most, anew = (self.signature.max_rows, self.signature.max_envs), self._staging.slots_that_begin_anew(round_)
        reason = self.ring.why_not_yet(self.ring.end_of_round(set(slots), anew, *most))
        return None if reason is None else f"round {round_} waits: {reason}"

    def apply(self, round_: int, slots: Sequence[int]) -> None:
        """Insert a round's unrolls in the order of slots; those of other slots and of earlier rounds are dropped."""
        self._staging.apply(round_, slots)

    def tell_staged_again(self) -> None:
        """Somebody new wants to know what came: begin with all that is staged."""
        self.reports = Reports()
        for header in self._staging.headers():
            self.reports.add(header)

    # ------------------------------------------------------------------------------------------ samples

    def check_draw(self, batches: int, batch_size: int = 0) -> int:
        """How many items so many batches are. ReplayError when that is none, or more than one draw may have."""
        size = batch_size or self.definition.batch_size
        if not 1 <= batches * size <= self.max_items:
            most = self.max_items // size
            raise ReplayError(
                f"a draw of {batches} batches of {size} items; the limit of table {self.definition.name!r} is "
                f"{self.max_items} items: ask for {f'1 to {most} batches' if most else 'smaller batches'}"
            )
        return batches * size

    def may_sample(self, items: int) -> bool:
        """Whether `items` may be drawn now."""
        return self.limiter.may_sample(items) and not self._draws_left.fewer_than(items)

    def why_sample_waits(self, items: int) -> str | None:
        """The arithmetic that holds a sample back; None if it may go."""
        return None if self.may_sample(items) else self.limiter.why_sample_waits(items) or self._draws_left.why(items)

    def sample(
        self, n: int, rng: np.random.Generator, *, strata: int = 1, columns: bool = True, out: Columns | None = None
    ) -> Drawn:
        """`n` items in `strata` batches; without `columns` their keys alone. `out` may hold arrays to fill.

        Drawn from `rng` alone, so the same table and generator give the same batch.
        """
        items = self.ring.items
        keys, probability = self._draws_left.draw(self._sampler, n, rng, strata)
        self.limiter.record_sample(n)
        self.ring.files.sampled = self.limiter.sampled
        return Drawn(keys, probability, self.ring.gather(keys, out) if columns else None, items)

    def update_priorities(self, keys: Array, priorities: Array) -> int:
        """Set them; returns how many keys are no items any more. SchemaError where they are no priorities."""
        if isinstance(self._sampler, UniformSampler):
            raise SchemaError(
                f"table {self.definition.name!r} draws uniformly and has no priorities: create it with the "
                "prioritised sampler"
            )
        unknown = self._sampler.update(keys, priorities)
        self._unknown_keys += unknown
        return unknown

    # ------------------------------------------------------------------------------------------ disk

    @property
    def folder(self) -> TableFolder:
        """Of its files. ReplayError where it has none."""
        if self._folder is None:
            raise ReplayError(
                f"table {self.definition.name!r} is kept in its server's memory, which has no manifests: start the "
                "server with --data-dir"
            )
        return self._folder

    def rollback(self, round_: int) -> int:
        """Everything is as it was at that round's manifest; returns how many of its items are lost."""
        lost = self.folder.rollback(round_)
        self.reports = Reports()
        self._take_over()
        self._lost_items += lost
        return lost

    def wanted_mark(self) -> int | None:
        """Where the disk's mark should be moved to (see mark.py); None: nowhere."""
        return None if self._folder is None else self._folder.wanted_mark()

    def marked(self, position: int) -> None:
        """The mark is there."""
        self.ring.reuse_limit = position

    def stats(self) -> TableStats:
        """Counters; items are valid rows, the capacity is in rows."""
        return TableStats(
            items=self.ring.items,
            capacity=self.ring.layout.capacity,
            held_bytes=self.ring.held_bytes + self._staging.nbytes,
            inserted=self.limiter.inserted,
            sampled=self.limiter.sampled,
            evicted=self.ring.evicted,
            duplicates=self._duplicates,
            lives=len(self._dedupe),
            staged=len(self._staging),
            unknown_keys=self._unknown_keys,
            lost=self._lost_items,
        )

    def abandon(self) -> None:
        """Let go of the files, which will be removed."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.abandon()

    def close(self) -> None:
        """Leave the files as the next server should find them; idempotent."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()
