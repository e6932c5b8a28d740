"""A replay table with files against a naive one: any order of inserts, draws, kills, power cuts and rollbacks."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from replay_server import settings as settings_module
from replay_server.definition import ReplayDefinition
from replay_server.layout import fit_ring
from replay_server.ring_files import BOOT
from tests.unit.naive_table import (
    BLOCK_ROWS,
    CELLS,
    DEFINITION,
    MAX_ROWS,
    PRIORITISED,
    CheckedTable,
    Model,
)


class TableMachine(RuleBasedStateMachine, CheckedTable):
    """What may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.make()

    def teardown(self) -> None:
        self.let_go()
        shutil.rmtree(self.path)

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lives = [self.new_life(slot) for slot in range(3)]

    # -------------------------------------------------------------------------------------------- rules

    @rule(slot=st.integers(0, 2), unrolls=st.integers(1, 12), rows=st.integers(1, MAX_ROWS))
    def insert(self, slot: int, unrolls: int, rows: int) -> None:
        for _ in range(unrolls):
            self.insert_one(slot, rows)
            self.take_up()  # each time: rows of a block that is nearly the oldest may come and go in between

    @rule(lap=st.sampled_from([0.3, 0.7, 1.2]))
    def insert_much(self, lap: float) -> None:
        end, slot = self.table.ring.head + lap * CELLS, 0
        while self.table.ring.head < end:
            slot = (slot + 1) % 3
            for _ in range(5):
                self.insert_one(slot, MAX_ROWS)
                self.take_up()

    @rule(slot=st.integers(0, 2))
    def end_life(self, slot: int) -> None:
        life = self.lives[slot]
        self.table.end_life(slot, life.incarnation)
        self.model.lives.pop((slot, life.incarnation), None)
        self.lives[slot] = self.new_life(slot)

    @rule(batches=st.integers(1, 8), n=st.integers(1, 4))
    def sample(self, batches: int, n: int) -> None:
        model, n = self.model, batches * n
        most = self.definition.max_times_sampled
        enough = model.inserted >= 1 and bool(model.items)
        if most and enough:
            enough = len(model.items) * most - sum(model.times.values()) >= n
        assert self.table.may_sample(n) == enough
        if not enough:
            return
        powers = np.array([model.priority[key] for key in sorted(model.items)]) ** self.definition.priority_exponent
        drawn = self.table.sample(n, self.rng, strata=batches)
        assert drawn.columns is not None
        model.sampled += n
        numbers = self.numbers(drawn.columns)
        assert numbers.tolist() == [model.items[key] for key in drawn.keys.tolist()]
        if drawn.probability is not None:
            if powers.sum() == 0:
                powers[:] = 1
            wanted = [powers[sorted(model.items).index(key)] / powers.sum() for key in drawn.keys.tolist()]
            np.testing.assert_allclose(drawn.probability, wanted, rtol=1e-5)
        for key in drawn.keys.tolist() if most else ():
            model.times[key] += 1
        for key in [key for key, times in model.times.items() if most and times >= most]:
            assert model.times[key] == most
            del model.items[key], model.priority[key], model.times[key]

    @precondition(lambda self: self.definition.sampler == "prioritised")
    @rule(n=st.integers(1, 20), scale=st.sampled_from([0.0, 0.5, 30.0]))
    def update_priorities(self, n: int, scale: float) -> None:
        ring, model = self.table.ring, self.model
        keys = self.rng.integers(ring.tail - 5, ring.head + 5, n)
        priorities = (self.rng.random(n) * scale).astype(np.float32)
        unknown = sum(key not in model.items for key in keys.tolist())
        assert self.table.update_priorities(keys, priorities) == unknown
        for key, priority in zip(keys.tolist(), priorities.tolist(), strict=True):
            if key in model.items:
                model.priority[key] = priority
                model.largest = max(model.largest, priority)

    @rule()
    def write_manifest(self) -> None:
        self.table.folder.checkpoint(None)()
        self.checkpoints += 1
        self.manifest = copy.deepcopy(self.model)

    @rule()
    def checkpoint(self) -> None:
        self.checkpoints += 1
        self.table.folder.checkpoint(self.checkpoints)()
        self.manifest = copy.deepcopy(self.model)
        self.rounds[self.checkpoints] = self.manifest, self.checkpoints
        self.rounds = dict(list(self.rounds.items())[-2:])

    @rule()
    def restart(self) -> None:
        """Killed: nothing may be missing."""
        epoch = self.table.epoch
        self.reopen()
        assert self.table.epoch == epoch

    @rule()
    def close(self) -> None:
        self.table.close()
        self.checkpoints += self.durable
        self.manifest = copy.deepcopy(self.model) if self.durable else self.manifest
        self.restart()

    @rule(newest=st.booleans())
    def rollback(self, newest: bool) -> None:
        if not self.rounds:
            return
        round_ = list(self.rounds)[-1 if newest else 0]
        epoch = self.table.epoch
        saved, number = self.rounds[round_]
        self.rounds = {other: kept for other, kept in self.rounds.items() if kept[1] <= number}
        self.manifest = saved
        lost = self.table.rollback(round_)
        assert self.table.epoch != epoch
        self.take_back(saved, self.written)
        if not self.definition.max_times_sampled:
            assert len(saved.items) - len(self.model.items) == lost

    @rule()
    def power_cut(self) -> None:
        epoch = self.table.epoch
        self.table.ring.files.header[BOOT] += 1
        self.reopen()
        assert self.table.epoch != epoch
        if self.durable and self.manifest is not None:
            self.written = self.table.folder._mark.position
            self.take_back(self.manifest, self.written, as_found=True)
            largest = self.table.ring.max_priority  # priorities are as found, of rows that are no items too
            assert largest >= max(self.model.largest, *self.model.priority.values(), 1.0)
            self.model.largest = largest
        else:
            assert self.table.ring.items == 0
            self.model, self.manifest, self.rounds, self.written = Model(), None, {}, 0
            self.begin_again()

    # -------------------------------------------------------------------------------------------- checks

    @invariant()
    def same(self) -> None:
        model, table = self.model, self.table
        self.written = max(self.written, table.ring.head)
        assert self.found() == model.items
        stats = table.stats()
        assert (stats.items, stats.inserted, stats.sampled) == (len(model.items), model.inserted, model.sampled)
        assert table.ring.inserted == model.inserted
        for (slot, incarnation), seq in model.lives.items():
            assert table.next_seq(slot, incarnation) == seq + 1
        if self.definition.sampler == "prioritised":
            assert self.stored(table.ring.priority) == model.priority
            assert table.ring.max_priority == model.largest
        if self.definition.max_times_sampled:
            assert self.stored(table.ring.times) == model.times


@pytest.mark.slow
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("definition", [DEFINITION, PRIORITISED, replace(DEFINITION, max_times_sampled=3)])
def test_any_order_leaves_what_a_naive_table_has(
    monkeypatch: pytest.MonkeyPatch, durable: bool, definition: ReplayDefinition
) -> None:
    monkeypatch.setattr(settings_module, "fit_ring", partial(fit_ring, block_rows=BLOCK_ROWS))  # many of them

    class Machine(TableMachine):
        pass

    Machine.durable, Machine.definition = durable, definition
    run_state_machine_as_test(
        Machine,
        settings=settings(
            deadline=None,
            max_examples=20,
            stateful_step_count=40,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
