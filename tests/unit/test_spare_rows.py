"""A table's spare rows: what a rollback returns to is there, whatever was written since; with fewer it is not."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.types import Lag, Plan, Replay, Rows, UnrollHeader
from learner.link import INTERVALS_KEPT, definition_of
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from tests.unit.counting import CountingLife, signature


def definition(rows: int, envs: int, actors: int, rounds: int, capacity: int, after: int) -> ReplayDefinition:
    table = Replay(capacity=capacity, batch_size=4, min_size=1, updates_per_env_step=0.1, after=after)
    plan = Plan(Rows(rows), table, Lag(1))
    return definition_of("t", plan, table, signature(rows, envs), actors, rounds_between=rounds)


def lost(made: ReplayDefinition, rounds: int) -> int:
    """Items missing after a rollback over `INTERVALS_KEPT` intervals of `rounds` rounds, in a full table."""
    rows, envs, rng = made.signature.max_rows, made.signature.max_envs, np.random.default_rng(5)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = DataDir(Path(folder), durable=False)
        table = ReplayTable.open(made, data_dir=data_dir)
        lives = [CountingLife(slot, 1, envs, rng) for slot in range(made.writers)]
        numbers, round_ = iter(range(2, 10_000)), 0

        def play() -> None:
            nonlocal round_
            for _ in range(rounds):
                for slot, life in enumerate(lives):
                    if round_ and round_ % rounds == 0:
                        life = lives[slot] = life.restarted(next(numbers))
                    restarted = life.row == 0 and round_ > 0
                    columns = life.unroll(rows)
                    header = replace(life.header(columns, round_), restarted=restarted)
                    table.stage(1, life.seq, header, columns, (rows, envs))
                table.apply(round_, range(made.writers))
                round_ += 1

        while table.ring.evicted == 0 or round_ < 2 * rounds:
            play()
        before, back = table.stats().items, round_
        table.folder.checkpoint(back)()
        for _ in range(INTERVALS_KEPT):
            play()
        missing = table.rollback(back)
        assert table.stats().items == before - missing
        table.close()
        data_dir.close()
    return missing


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    envs=st.integers(1, 3),
    actors=st.integers(1, 3),
    rounds=st.integers(1, 12),
    room=st.integers(0, 300),
    after=st.integers(1, 4),
)
def test_a_rollback_over_two_intervals_misses_nothing(
    rows: int, envs: int, actors: int, rounds: int, room: int, after: int
) -> None:
    assume(rows * rounds >= after)  # else no window is ever filled
    capacity = 2 * actors * max(64, (after + rows) * envs) + 1 + room
    assert lost(definition(rows, envs, actors, rounds, capacity, after), rounds) == 0


def test_with_fewer_spare_rows_it_would() -> None:
    made = definition(rows=4, envs=2, actors=2, rounds=40, capacity=400, after=2)
    assert lost(made, 40) == 0
    assert lost(replace(made, spare_rows=made.spare_rows // 4), 40) > 0


def test_tables_that_never_evict_and_those_without_reset_points_spare_none() -> None:
    assert definition(4, 2, 2, 0, 400, 2).spare_rows == 0
    table = Replay(capacity=400, batch_size=4, min_size=1, updates_per_env_step=0.1, evict=False)
    plan = Plan(Rows(4), table, Lag(1))
    assert definition_of("t", plan, table, signature(4, 2), 2, rounds_between=9).spare_rows == 0


def test_unrolls_that_restart_count_as_new_blocks_when_a_round_is_to_be_applied() -> None:
    table = ReplayTable.open(definition(4, 2, 2, 3, 400, 2))
    rng = np.random.default_rng(1)
    for slot, restarted in ((0, True), (1, False)):
        columns = CountingLife(slot, 1, 2, rng).unroll(4)
        header = UnrollHeader(slot, 5, 4, int(columns["valid"].sum()), restarted=restarted)
        assert table.stage(1, 1, header, columns, (4, 2))
    assert table._staging.slots_that_begin_anew(5) == {0}
    assert table._staging.slots_that_begin_anew(6) == set()


@pytest.mark.parametrize("restarted", [False, True])
def test_an_unroll_that_restarts_is_no_part_of_the_window_before(restarted: bool) -> None:
    table = ReplayTable.open(replace(definition(4, 1, 1, 3, 400, 2), staged=False))
    life = CountingLife(0, 1, 1, np.random.default_rng(1), end=0.0)
    for round_ in range(2):
        columns = life.unroll(4)
        header = replace(life.header(columns, round_), restarted=restarted and round_ == 1)
        assert table.insert(1, life.seq, header, columns, (4, 1))
    assert table.stats().items == (6 if restarted else 7)  # the last row of each block waits for the row after it
