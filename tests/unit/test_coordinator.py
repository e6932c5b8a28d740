"""learner/coordinator.py: who acts in which round with which version, joins, losses, replacements, FIFO demand."""

from __future__ import annotations

import asyncio
import queue

import numpy as np
import pytest

from core.clock import FakeClock
from core.errors import ItemRejectedError
from core.types import UnrollHeader
from learner.coordinator import Coordinator
from learner.publisher import Publisher
from learner.rounds import Rounds, Seat
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue, QueueBatch, RoundQueue
from tests.unit.counting import CountingLife, signature

T, B = 2, 2
GRACE_S, START_S = 10.0, 60.0


class Run:
    """A coordinator and the test in the place of actors and learner."""

    def __init__(self, lag: int | None, expected: int = 2, version: int = 0, items: int = 1, **more: int) -> None:
        self.clock = FakeClock()
        self.table: RoundQueue | FifoQueue = (
            FifoQueue(signature(T, B), 4) if lag is None else RoundQueue(signature(T, B), lag)
        )
        hosted: Hosted[RoundQueue] | Hosted[FifoQueue] = Hosted("experience", self.table, self.clock)  # type: ignore[assignment]
        self.rounds = Rounds(lag, GRACE_S, expected, version)
        self.publisher = Publisher((lag or 0) + 1)
        self.coordinator = Coordinator(
            self.rounds,
            self.publisher,
            hosted,
            self.clock,
            start_timeout_s=START_S,
            items_per_batch=items,
            max_staleness=more.get("max_staleness"),
        )
        self._hosted = hosted
        self._lives: dict[int, CountingLife] = {}

    def join(self, incarnation: int) -> Seat:
        """An actor joins and opens its weights stream."""
        seat = self.coordinator.join(incarnation, "host", 1000 + incarnation)
        self.coordinator.lease(seat.slot, incarnation)
        self._lives[incarnation] = CountingLife(seat.slot, incarnation, B, np.random.default_rng(1))
        return seat

    def publish(self, version: int) -> None:
        """The learner publishes."""
        self.coordinator.publish(version, b"weights")

    def deliver(self, incarnation: int, round_: int, version: int = 0) -> None:
        """The actor's unroll of a round arrives."""
        life = self._lives[incarnation]
        columns = life.unroll(T)
        header = UnrollHeader(life.slot, round_, version, T * B)

        async def insert() -> None:
            await self._hosted.insert(
                self._hosted.open_life(life.slot, incarnation), incarnation, life.seq, header, columns
            )

        asyncio.run(insert())

    def batch(self) -> list[tuple[int, int]] | None:
        """(slot, round) of each unroll of the next batch; None where none is ready."""
        try:
            batch = self.coordinator.batches.get_nowait()
        except queue.Empty:
            return None
        assert isinstance(batch, QueueBatch)
        return [(header.slot, header.round) for header in batch.headers]


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
        assert run.rounds.frozen() == tuple(range(version, version + lag + 1))
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
    assert run.rounds.frozen() == tuple(range(21, 22 + lag))
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
    with pytest.raises(ItemRejectedError, match="join again"):
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
    run.clock.advance(START_S)
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
