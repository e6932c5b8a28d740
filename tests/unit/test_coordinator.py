"""learner/coordinator.py: who acts in which round with which version, joins, losses, replacements, FIFO demand."""

from __future__ import annotations

import pytest

from core.errors import ItemRejectedError
from learner.rounds import Seat
from tests.unit.coordinating import START_S, B, Run, T


@pytest.mark.parametrize("lag", [0, 1])
def test_rounds_go_on_in_order_and_actors_may_be_lag_rounds_ahead(lag: int) -> None:
    run = Run(lag)
    run.publish(0)
    assert [run.join(incarnation) for incarnation in (1, 2)] == [Seat(0, 0), Seat(1, 0)]
    for round_ in range(lag):  # with lag 1, round 0 is delivered before the loop, and each turn delivers the next
        run.deliver(1, round_)
        run.deliver(2, round_)
    for version in range(6):
        run.deliver(2, version + lag)
        assert run.batch() == ([(0, version), (1, version)] if lag else None)
        with pytest.raises(ItemRejectedError, match="is not open yet"):
            run.deliver(1, version + lag + 1)
        run._lives[1].seq -= 1
        run.deliver(1, version + lag)
        assert run.batch() == (None if lag else [(0, version), (1, version)])
        assert tuple(run.rounds.status().owed) == tuple(range(version, version + lag + 1))
        run.publish(version + 1)
    assert run.rounds.deterministic


def test_nobody_acts_before_all_expected_actors_have_joined() -> None:
    run = Run(1, expected=3)
    run.publish(0)
    run.join(1)
    run.join(2)
    assert not run.coordinator.started.is_set()
    assert run.rounds.cohort(0) is None
    run.join(3)
    assert run.coordinator.started.is_set()
    assert (run.rounds.cohort(0), run.rounds.cohort(1)) == ((0, 1, 2), (0, 1, 2))


def test_the_start_waits_for_missing_actors_only_so_long() -> None:
    run = Run(0, expected=3)
    run.publish(0)
    run.clock.advance(1000.0)  # before the first join nobody waits
    run.coordinator.tick()
    run.join(1)
    run.clock.advance(START_S)
    run.coordinator.tick()
    assert not run.coordinator.started.is_set()
    run.clock.advance(0.1)
    run.coordinator.tick()
    assert run.coordinator.started.is_set()
    assert not run.rounds.deterministic
    run.deliver(1, 0)
    assert run.batch() == [(0, 0)]


@pytest.mark.parametrize("actors_first", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
def test_a_resumed_run_begins_with_the_checkpoints_version(lag: int, actors_first: bool) -> None:
    run = Run(lag, expected=1, version=20)
    if not actors_first:
        run.publish(20)
    assert run.join(1) == Seat(0, 20)
    if actors_first:
        run.publish(20)
    assert run.rounds.version == 20
    run.deliver(1, 20)
    assert run.batch() == [(0, 20)]
    run.publish(21)
    assert tuple(run.rounds.status().owed) == tuple(range(21, 22 + lag))
    run.deliver(1, 21)
    assert run.batch() == [(0, 21)]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_joiner_begins_with_the_first_round_that_is_not_frozen(lag: int) -> None:
    run = Run(lag, expected=1)
    run.publish(0)
    run.join(1)
    for version in range(3):
        run.deliver(1, version)
        assert run.batch() == [(0, version)]
        run.publish(version + 1)
    assert run.join(2) == Seat(1, 3 + lag + 1)
    assert not run.rounds.deterministic
    for round_ in range(3, 3 + lag + 1):
        run.deliver(1, round_)
        assert run.batch() == [(0, round_)]
        run.publish(round_ + 1)
    run.deliver(1, 4 + lag)
    assert run.batch() is None
    run.deliver(2, 4 + lag)
    assert run.batch() == [(0, 4 + lag), (1, 4 + lag)]


def test_what_came_from_a_slot_and_its_restarts_are_told() -> None:
    run = Run(lag=0, expected=1)
    seat = run.join(1)
    run.publish(0)
    run.clock.advance(2.0)
    run.deliver(1, 0)
    (actor,) = run.coordinator.seated()
    assert (actor.slot, actor.env_steps, actor.version, actor.silent_s, actor.restarts) == (seat.slot, T * B, 0, 0.0, 0)
    assert actor.env_steps_per_s == T * B / 2.0
    run.coordinator.lost(seat.slot, 1)
    assert run.join(2).slot == seat.slot
    (actor,) = run.coordinator.seated()
    assert (actor.restarts, actor.env_steps) == (1, 0)
