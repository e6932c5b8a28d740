"""learner/coordinator.py when actors die, come back or are replaced, and at the end of a run."""

from __future__ import annotations

import pytest

from core.errors import SeatLostError
from core.types import UnrollHeader
from learner.coordinator import JOINING_S
from learner.rounds import Seat
from tests.unit.coordinating import GRACE_S, Run, T


def test_a_replacement_repeats_what_its_slot_owes() -> None:
    run = Run(1)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.deliver(1, 0)
    run.deliver(1, 1)
    run.deliver(2, 0)
    assert run.batch() == [(0, 0), (1, 0)]
    run.coordinator.lost(1, 2)
    assert run.coordinator.actors[1].state == "lost"
    run.clock.advance(GRACE_S / 2)
    run.coordinator.tick()
    run.publish(1)
    assert run.join(3) == Seat(1, 1)
    assert run.coordinator.actors[1].state == "acting"
    run.deliver(3, 1)
    assert run.batch() == [(0, 1), (1, 1)]
    assert run.rounds.status().replaced == 1
    run.coordinator.lost(1, 2)  # late news of the former life
    assert run.coordinator.actors[1].state == "acting"


def test_after_the_grace_rounds_go_on_without_the_slot() -> None:
    run = Run(1)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.deliver(1, 0)
    run.coordinator.lost(1, 2)
    run.clock.advance(GRACE_S - 0.1)
    run.coordinator.tick()
    assert run.batch() is None
    assert 1 in run.coordinator.actors
    run.clock.advance(0.2)
    run.coordinator.tick()
    assert run.batch() == [(0, 0)]
    assert 1 not in run.coordinator.actors
    run.publish(1)
    run.deliver(1, 1)
    assert run.batch() == [(0, 1)]
    with pytest.raises(SeatLostError, match="join again"):
        run.deliver(2, 1)


def test_an_actor_that_comes_back_within_its_grace_keeps_its_seat() -> None:
    run = Run(0)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.coordinator.lost(1, 2)
    run.clock.advance(GRACE_S / 2)
    run.coordinator.lease(1, 2)
    assert run.coordinator.actors[1].state == "acting"
    run.clock.advance(GRACE_S)
    run.coordinator.tick()
    run.deliver(1, 0)
    run.deliver(2, 0)
    assert run.batch() == [(0, 0), (1, 0)]
    assert run.rounds.deterministic


def test_an_actor_that_dies_before_its_weights_stream_stands_is_not_waited_for_for_ever() -> None:
    run = Run(0)
    run.publish(0)
    run.join(1)
    seat = run.coordinator.join(2, "host", 2)
    assert run.coordinator.actors[seat.slot].state == "joining"
    run.deliver(1, 0)
    run.clock.advance(JOINING_S)
    run.coordinator.tick()
    assert run.coordinator.actors[seat.slot].state == "joining"
    run.clock.advance(0.1)
    run.coordinator.tick()
    assert run.coordinator.actors[seat.slot].state == "lost"
    assert run.join(3).slot == seat.slot
    run.deliver(3, 0)
    assert run.batch() == [(0, 0), (1, 0)]


def test_with_every_actor_gone_the_learner_waits_for_a_new_one() -> None:
    run = Run(0, expected=1)
    run.publish(0)
    run.join(1)
    run.coordinator.lost(0, 1)
    run.clock.advance(GRACE_S + 1)
    run.coordinator.tick()
    assert run.batch() is None
    assert run.join(2) == Seat(0, 1)
    assert run.batch() == []  # round 0 is a round without updates
    run.publish(1)
    run.deliver(2, 1)
    assert run.batch() == [(0, 1)]


def test_nothing_is_handed_out_before_the_first_version_is_published() -> None:
    run = Run(1, expected=1)
    run.join(1)
    run.deliver(1, 0)
    assert run.batch() is None
    run.publish(0)
    assert run.batch() == [(0, 0)]
    assert run.batch() is None


def test_fifo_batches_come_as_they_are_wanted() -> None:
    run = Run(None, items=2)
    run.publish(0)
    assert run.coordinator.started.is_set()
    run.join(1)
    run.deliver(1, 0)
    run.deliver(1, 1)
    run.deliver(1, 2)
    assert run.batch() is None
    run.coordinator.want_batch()
    assert run.batch() == [(0, 0), (0, 1)]
    run.coordinator.want_batch()
    run.coordinator.want_batch()
    assert run.batch() is None
    for round_ in (3, 4):
        run.deliver(1, round_)
    assert (run.batch(), run.batch()) == ([(0, 2), (0, 3)], None)
    run.deliver(1, 5)
    assert (run.batch(), run.batch()) == ([(0, 4), (0, 5)], None)


def test_a_batch_that_is_wanted_is_said_to_be_waited_for_and_since_when() -> None:
    run = Run(None, items=2)
    run.publish(0)
    run.join(1)
    run.clock.advance(5.0)
    assert run.coordinator.why_it_waits() is None
    run.coordinator.want_batch()
    run.deliver(1, 0)
    run.clock.advance(3.0)
    reason = "the queue has 1 of the 2 unrolls of a batch; actors that deliver: 1"
    assert run.coordinator.why_it_waits() == ("items to sample", 3.0, reason)
    run.deliver(1, 1)
    assert run.coordinator.why_it_waits() is None


def test_fifo_drops_what_is_too_stale_and_goes_on_wanting() -> None:
    run = Run(None, items=1, max_staleness=1)
    run.publish(0)
    run.join(1)
    run.deliver(1, 0, version=0)
    for version in (1, 2):
        run.publish(version)
    run.coordinator.want_batch()
    assert run.batch() is None
    assert run.table.stats().dropped == 1
    run.deliver(1, 1, version=2)
    assert run.batch() == [(0, 1)]


def test_an_async_joiner_goes_on_after_its_slots_rounds() -> None:
    run = Run(None, expected=1)
    run.publish(0)
    assert run.join(1) == Seat(0, 0)
    run.deliver(1, 0)
    run.deliver(1, 1)
    run.coordinator.lost(0, 1)
    assert run.join(2) == Seat(0, 2)


def test_close_tells_the_source_that_nothing_more_comes() -> None:
    run = Run(0)
    run.publish(0)
    run.coordinator.close()
    assert run.coordinator.batches.get_nowait() is None


def test_the_end_of_the_run_reaches_actors_that_wait_for_its_start() -> None:
    run = Run(0, expected=3)
    run.publish(0)
    run.join(1)
    run.coordinator.finish("signal SIGINT")
    assert run.coordinator.started.is_set()
    assert run.publisher.finished
    run.coordinator.lost(0, 1)  # it leaves: no loss
    assert run.rounds.status().lost == {}


def test_an_older_weights_stream_that_ends_late_takes_nobodys_seat() -> None:
    run = Run(1, expected=1)
    seat = run.join(11)
    newer = run.coordinator.lease(seat.slot, 11)
    run.coordinator.lost(seat.slot, 11, newer - 1)
    run.clock.advance(GRACE_S + 1)
    run.coordinator.tick()
    assert run.coordinator.actors[seat.slot].state == "acting"
    run.coordinator.lost(seat.slot, 11, newer)
    assert run.coordinator.actors[seat.slot].state == "lost"


def test_a_replacement_goes_on_after_what_the_replay_server_has() -> None:
    run = Run(None, expected=1)
    seat = run.join(11)
    run.coordinator.note([UnrollHeader(seat.slot, 6, 0, T)])
    run.coordinator.lost(seat.slot, 11)
    assert run.join(12) == Seat(seat.slot, 7)
