"""learner/coordinator.py with a replay server's news: rounds that are complete, slots that left, room for joiners."""

from __future__ import annotations

import asyncio
import queue

import pytest

from core.clock import FakeClock
from core.errors import ConfigError
from core.types import UnrollHeader
from learner.coordinator import Coordinator
from learner.rounds import Rounds, Seat

GRACE_S = 10.0


class Run:
    """A coordinator without a queue, and the test in the place of actors, replay server and learner."""

    def __init__(self, lag: int | None, expected: int = 2, version: int = 0) -> None:
        self.clock = FakeClock()
        self.rounds = Rounds(lag, GRACE_S, expected, version, staged=True)
        self.coordinator = Coordinator(self.rounds, None, self.clock)
        self.told = 0
        self.coordinator.on_complete = self._tell

    def _tell(self) -> None:
        self.told += 1

    def join(self, incarnation: int) -> Seat:
        seat = self.coordinator.join(incarnation, "host", 1000 + incarnation)
        self.coordinator.lease(seat.slot, incarnation)
        return seat

    def publish(self, version: int) -> None:
        self.coordinator.publish(version, f"v{version}".encode())

    def stage(self, *unrolls: tuple[int, int]) -> None:
        """The replay server tells of (slot, round) staged."""
        self.coordinator.note([UnrollHeader(slot, round_, 0, 4) for slot, round_ in unrolls])

    def complete(self) -> tuple[int, list[int]] | None:
        """The next complete round and the slots that delivered; None where none is."""
        try:
            found = self.coordinator.complete.get_nowait()
        except queue.Empty:
            return None
        assert found is not None
        assert {header.round for header in found.headers} <= {found.round}
        return found.round, [header.slot for header in found.headers]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_round_is_complete_when_all_is_staged_and_its_version_is_published(lag: int) -> None:
    run = Run(lag)
    run.join(1)
    run.join(2)
    run.stage((1, 0))
    assert run.complete() is None
    run.stage((0, 0))
    assert run.complete() is None  # version 0 is not published
    run.publish(0)
    assert run.complete() == (0, [0, 1])  # in the order of slots
    assert run.told == 1
    run.stage((0, 0), (1, 0))  # told again, by a server that was restarted
    assert run.complete() is None
    for round_ in range(1, 5):
        steps = [lambda r=round_: run.stage((1, r), (0, r)), lambda r=round_: run.publish(r)]
        for step in steps if lag else reversed(steps):  # with lag 1 actors may be a round ahead
            assert run.complete() is None
            step()
        assert run.complete() == (round_, [0, 1])
    assert run.rounds.deterministic


def test_an_unroll_that_is_told_twice_counts_once_and_a_late_one_not_at_all() -> None:
    run = Run(0)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.stage((0, 0), (0, 0))
    run.coordinator.lost(1, 2)
    run.clock.advance(GRACE_S + 1)
    run.coordinator.tick()
    assert run.complete() == (0, [0])
    run.stage((1, 0))
    run.publish(1)
    run.stage((1, 0), (1, 1), (0, 1))
    assert run.complete() == (1, [0])
    assert not run.rounds.deterministic


def test_who_delivered_and_left_is_still_in_the_round() -> None:
    run = Run(0)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.stage((1, 0))
    run.coordinator.lost(1, 2)
    run.clock.advance(GRACE_S + 1)
    run.coordinator.tick()
    run.stage((0, 0))
    assert run.complete() == (0, [0, 1])
    run.publish(1)
    run.stage((0, 1))
    assert run.complete() == (1, [0])


def test_a_replacement_repeats_what_the_replay_server_may_lose() -> None:
    run = Run(1)
    run.publish(0)
    run.join(1)
    run.join(2)
    run.stage((0, 0), (0, 1), (1, 0))
    assert run.complete() == (0, [0, 1])
    run.coordinator.lost(1, 2)
    assert run.join(3) == Seat(1, 0)
    run.stage((1, 0), (1, 1))
    run.publish(1)
    assert run.complete() == (1, [0, 1])


@pytest.mark.parametrize("lag", [0, 1])
def test_the_learner_goes_on_and_a_replacement_still_gets_the_versions_that_it_repeats_with(lag: int) -> None:
    run = Run(lag)
    run.publish(0)
    run.join(1)
    run.join(2)
    for round_ in range(5 + lag):
        run.stage((0, round_), (1, round_))
        if round_ < 4:
            run.publish(round_ + 1)
    run.coordinator.lost(1, 2)
    assert run.join(3) == Seat(1, 4)
    while run.rounds.complete(run.rounds.version):  # before the replacement's weights stream stands
        run.publish(run.rounds.version + 1)
        run.stage((0, run.rounds.version + lag))
    assert run.rounds.version == 5 + lag

    async def stream() -> list[bytes]:
        versions = run.coordinator.publisher.subscribe(4 - lag, every=True)
        async with asyncio.timeout(1.0):  # what is kept comes without waiting
            return [await anext(versions) for _ in range(2 * (lag + 1))]

    assert asyncio.run(stream()) == [f"v{version}".encode() for version in range(4 - lag, 6 + lag)]


def test_a_resumed_run_begins_with_the_checkpoints_round() -> None:
    run = Run(1, expected=1, version=20)
    run.publish(20)
    assert run.join(1) == Seat(0, 20)
    run.stage((0, 20))
    assert run.complete() == (20, [0])


def test_in_async_pace_news_only_tell_where_a_replacement_goes_on() -> None:
    run = Run(None)
    run.publish(0)
    run.join(1)
    run.stage((0, 0), (0, 1))
    assert run.complete() is None
    run.coordinator.lost(0, 1)
    assert run.join(2) == Seat(0, 2)


def test_it_says_who_owes_the_current_round_and_since_when() -> None:
    run = Run(0)
    why = run.coordinator.why_it_waits
    assert why() is None
    run.join(1)
    run.join(2)
    run.publish(0)
    run.clock.advance(3.0)
    assert why() == ("a round", 3.0, "round 0 waits for the unrolls of slots 0, 1")
    run.stage((0, 0))
    assert why() == ("a round", 3.0, "round 0 waits for the unrolls of slots 1")
    run.stage((1, 0))
    assert why() is None
    run.publish(1)
    run.clock.advance(1.0)
    assert why() == ("a round", 1.0, "round 1 waits for the unrolls of slots 0, 1")
    run.coordinator.lost(1, 2)
    run.clock.advance(4.0)
    owed = "round 1 waits for the unrolls of slots 0, 1; lost, and waited for until their grace is over: 1 (6 s)"
    assert why() == ("a round", 5.0, owed)
    run.clock.advance(GRACE_S)
    run.coordinator.tick()
    assert why() == ("a round", 15.0, "round 1 waits for the unrolls of slots 0")


def test_before_the_start_it_waits_for_actors_until_a_deadline() -> None:
    run = Run(1)
    run.publish(0)
    assert run.coordinator.why_it_waits() == ("actors", 0.0, "0 of 2 actors have joined")
    run.clock.advance(5.0)
    run.join(1)
    run.clock.advance(20.0)
    begins = "1 of 2 actors have joined; in 40 s it begins with those"
    assert run.coordinator.why_it_waits() == ("actors", 25.0, begins)
    run.clock.advance(41.0)
    run.coordinator.tick()
    found = run.coordinator.why_it_waits()
    assert found is not None
    assert found[0] == "a round"


def test_when_every_actor_has_left_it_waits_for_one_to_be_started() -> None:
    run = Run(1)
    run.publish(0)
    run.join(1)
    run.join(2)
    for slot in (0, 1):
        run.coordinator.lost(slot, slot + 1)
    run.clock.advance(GRACE_S + 1)
    run.coordinator.tick()
    left = "every actor has left; start one with `shoal actor --learner ADDRESS`"
    assert run.coordinator.why_it_waits() == ("actors", GRACE_S + 1, left)
    run.join(3)
    assert run.complete() == (0, [])  # a round without updates
    assert run.coordinator.why_it_waits() is None


def test_in_async_pace_nobody_waits_for_a_round() -> None:
    run = Run(None)
    run.publish(0)
    run.clock.advance(5.0)
    assert run.coordinator.why_it_waits() is None


def test_an_actor_more_than_the_table_has_room_for_is_refused_and_takes_no_seat() -> None:
    run = Run(None, expected=1)
    run.coordinator.why_refused = lambda actors: f"{actors} are too many" if actors > 2 else None
    run.join(1)
    run.join(2)
    with pytest.raises(ConfigError, match="3 are too many"):
        run.join(3)
    assert sorted(run.coordinator.actors) == [0, 1]
    run.coordinator.lost(1, 2)
    assert run.join(4).slot == 1  # a replacement is none more
    assert run.join(4).slot == 1
    with pytest.raises(ConfigError):
        run.join(5)


def test_close_ends_whoever_waits_for_a_round() -> None:
    run = Run(1)
    run.coordinator.close()
    assert run.coordinator.complete.get_nowait() is None
    assert run.told == 1
