"""learner/rounds.py: cohorts under kills and joins; versions exact; never stuck."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from core.errors import ReplayError
from learner.rounds import Dropped, Rounds, Seat


def started(lag: int, actors: int, grace_s: float = 30.0) -> Rounds:
    rounds = Rounds(lag, grace_s, expected=actors)
    for slot in range(actors):
        assert rounds.join(100 + slot, 0.0) == Seat(slot, 0)
    return rounds


def frozen(rounds: Rounds) -> tuple[int, ...]:
    """The rounds whose cohorts stand."""
    return tuple(rounds.status().owed)


def finish_round(rounds: Rounds) -> tuple[int, ...]:
    """Everybody delivers the present round, and it is published."""
    for slot in rounds.cohort(rounds.version) or ():
        rounds.delivered(slot, rounds.version)
    assert rounds.complete(rounds.version)
    return rounds.published()


def test_first_cohorts_freeze_when_all_expected_have_joined() -> None:
    rounds = Rounds(1, 30.0, expected=2)
    assert rounds.join(7, 0.0) == Seat(0, 0)
    assert not rounds.started
    assert rounds.cohort(0) is None
    assert rounds.join(8, 0.0) == Seat(1, 0)
    assert frozen(rounds) == (0, 1)
    assert rounds.cohort(0) == rounds.cohort(1) == (0, 1)
    assert rounds.cohort(2) is None
    assert rounds.deterministic


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_published_freezes_the_round_lag_ahead(lag: int) -> None:
    rounds = started(lag, 2)
    for version in range(1, 6):
        assert finish_round(rounds) == (0, 1)
        assert rounds.version == version
        assert frozen(rounds) == tuple(range(version, version + lag + 1))
        assert rounds.cohort(version - 1) is None


def test_round_cannot_be_published_while_somebody_owes() -> None:
    rounds = started(1, 2)
    rounds.delivered(0, 0)
    assert not rounds.complete(0)
    with pytest.raises(ReplayError, match=r"round 0 waits for slots \[1\]"):
        rounds.published()
    with pytest.raises(ReplayError, match="round 0 has not begun"):
        Rounds(0, 1.0, expected=1).published()


def test_joiner_begins_with_the_first_round_that_is_not_frozen() -> None:
    rounds = started(1, 1)
    for _ in range(20):
        finish_round(rounds)
    assert rounds.join(55, 0.0) == Seat(1, 22)
    assert not rounds.deterministic
    assert rounds.cohort(21) == (0,)
    assert finish_round(rounds) == (0, 1)
    assert rounds.cohort(22) == (0, 1)


def test_replacement_repeats_what_is_not_delivered() -> None:
    rounds = started(1, 2)
    for _ in range(30):
        finish_round(rounds)
    rounds.delivered(1, 30)
    rounds.lost(1, 101, 5.0)
    assert rounds.join(999, 10.0) == Seat(1, 31)
    assert not rounds.deterministic
    assert rounds.expire(1000.0) == []
    rounds.lost(1, 101, 5.0)  # a late word from the old life
    assert rounds.expire(1000.0) == []


def test_same_life_that_comes_back_changes_nothing() -> None:
    rounds = started(1, 2)
    rounds.lost(1, 101, 0.0)
    assert rounds.join(101, 1.0) == Seat(1, 0)
    assert rounds.deterministic
    assert rounds.expire(1000.0) == []


def test_grace_over_narrows_the_frozen_cohorts() -> None:
    rounds = started(1, 2, grace_s=10.0)
    rounds.delivered(1, 0)
    rounds.lost(1, 101, 0.0)
    assert rounds.expire(9.0) == []
    assert rounds.expire(10.0) == [Dropped(1, 1)]
    assert rounds.cohort(0) == (0, 1)
    assert rounds.cohort(1) == (0,)
    assert not rounds.delivered(1, 1)
    assert not rounds.seated(1)
    assert finish_round(rounds) == (0,)
    assert not rounds.deterministic


def test_slot_whose_grace_is_over_is_not_given_to_a_joiner() -> None:
    rounds = started(0, 2, grace_s=10.0)
    rounds.lost(0, 100, 0.0)
    assert rounds.join(5, 10.0) == Seat(2, 1)


def test_wanted_slot_is_given_if_it_is_lost_or_was_never_taken() -> None:
    rounds = Rounds(0, 10.0, expected=3)
    assert rounds.join(1, 0.0, wanted_slot=2) == Seat(2, 0)
    rounds.acts(2, 1)
    assert rounds.join(2, 0.0, wanted_slot=2) == Seat(0, 0)
    assert rounds.join(3, 0.0, wanted_slot=77) == Seat(1, 0)
    for slot in (0, 1, 2):
        rounds.lost(slot, (2, 3, 1)[slot], 0.0)
    assert rounds.join(4, 1.0, wanted_slot=1) == Seat(1, 0)
    assert rounds.join(5, 1.0) == Seat(0, 0)


def test_who_never_came_to_act_loses_the_slot_to_whoever_wants_it() -> None:
    rounds = Rounds(0, 10.0, expected=2)
    assert rounds.join(1, 0.0, wanted_slot=0) == Seat(0, 0)  # killed before its stream stood
    assert rounds.join(2, 0.1) == Seat(1, 0)  # wants none: it is not given that of one who joins
    assert rounds.join(3, 0.2, wanted_slot=0) == Seat(0, 0)
    rounds.acts(0, 1)  # of the former life: too late
    assert rounds.join(4, 0.3, wanted_slot=0) == Seat(0, 0)
    rounds.acts(0, 4)
    assert rounds.join(5, 0.4, wanted_slot=0) == Seat(2, 1)


def test_with_everybody_gone_the_learner_waits_for_a_joiner() -> None:
    rounds = started(1, 1, grace_s=1.0)
    rounds.lost(0, 100, 0.0)
    rounds.expire(1.0)
    assert rounds.cohort(0) == ()
    assert not rounds.complete(0)
    assert rounds.join(7, 2.0) == Seat(0, 2)
    assert rounds.complete(0)
    assert rounds.published() == (0,)  # round 0 is empty
    assert rounds.published() == (0,)  # round 1 is empty
    assert not rounds.complete(2)
    assert finish_round(rounds) == (0,)


def test_async_pace_has_seats_only() -> None:
    rounds = Rounds(None, 10.0, expected=2)
    assert rounds.join(1, 0.0) == Seat(0, 0)
    assert rounds.join(2, 0.0) == Seat(1, 0)
    assert rounds.delivered(0, 4)
    assert rounds.published() == ()
    assert rounds.version == 1
    rounds.lost(0, 1, 0.0)
    assert rounds.join(3, 1.0) == Seat(0, 5)
    assert rounds.cohort(0) is None
    assert not rounds.deterministic
    rounds.lost(0, 3, 2.0)
    assert rounds.expire(12.0) == []
    assert not rounds.seated(0)


def test_a_run_goes_on_at_its_version() -> None:
    rounds = Rounds(1, 10.0, expected=1, version=40)
    assert rounds.join(1, 0.0) == Seat(0, 40)
    assert frozen(rounds) == (40, 41)
    assert finish_round(rounds) == (0,)
    assert rounds.version == 41


class Fuzz:
    """Random kills, joins and replacements, with actors that follow their seats. Every claim is checked."""

    def __init__(self, seed: int, lag: int, actors: int, grace_s: float, make: Callable[..., Rounds] = Rounds) -> None:
        self.random, self.lag = random.Random(seed), lag
        self.rounds = make(lag, grace_s, expected=actors)
        self.acting: dict[int, int] = {}  # slot -> the round that its actor acts in next
        self.life: dict[int, int] = {}
        self.sent: dict[tuple[int, int], int] = {}
        self.used: set[tuple[int, int]] = set()
        self.lives = self.idle = 0
        for _ in range(actors):
            self.join(0.0)

    def join(self, now_s: float) -> None:
        self.lives += 1
        seat = self.rounds.join(self.lives, now_s)
        assert seat.slot not in self.acting
        self.acting[seat.slot], self.life[seat.slot] = seat.first_round, self.lives

    def step(self, now_s: float) -> None:
        luck = self.random.random()
        if luck < 0.02 and self.acting:
            slot = self.random.choice(sorted(self.acting))
            self.rounds.lost(slot, self.life[slot], now_s)
            del self.acting[slot]
        elif luck < 0.05:
            self.join(now_s)
        for dropped in self.rounds.expire(now_s):
            assert dropped not in self.sent
        self.act()
        self.learn()

    def act(self) -> None:
        for slot in self.random.sample(sorted(self.acting), len(self.acting)):
            round = self.acting[slot]
            version = max(0, round - self.lag)
            if version > self.rounds.version or self.random.random() < 0.5:
                continue
            assert self.rounds.version - self.lag <= version <= self.rounds.version
            assert (round, slot) not in self.sent
            assert self.rounds.delivered(slot, round)
            assert not self.rounds.delivered(slot, round)
            self.sent[round, slot] = version
            self.acting[slot] += 1

    def learn(self) -> None:
        version = self.rounds.version
        self.idle += 1
        if self.rounds.complete(version):
            for slot in self.rounds.cohort(version) or ():
                assert (version, slot) not in self.used
                assert self.sent[version, slot] == max(0, version - self.lag)
                self.used.add((version, slot))
            cohort = self.rounds.published()
            assert cohort == self.rounds.cohort(version + self.lag + 1)
            self.idle = 0
        assert self.idle < 400 or not self.acting, self.rounds.status()


CASES = [(lag, actors, grace_s) for lag in (0, 1, 2) for actors in (1, 3, 8) for grace_s in (1.0, 30.0)]


@pytest.mark.parametrize(("lag", "actors", "grace_s"), CASES)
def test_fuzz_never_stuck_and_every_unroll_once(lag: int, actors: int, grace_s: float, seed: int) -> None:
    fuzz = Fuzz(seed, lag, actors, grace_s)
    for tick in range(800):
        fuzz.step(float(tick))
    assert fuzz.rounds.version > 20
    over = {key for key in fuzz.sent if key[0] < fuzz.rounds.version}
    assert over == fuzz.used  # what was delivered was used, once


def test_fuzz_notices_a_cohort_that_is_not_frozen_with_the_version() -> None:
    class Broken(Rounds):
        def join(self, incarnation: int, now_s: float, wanted_slot: int | None = None) -> Seat:
            seat = super().join(incarnation, now_s, wanted_slot)
            late = self.started and seat.first_round > self.version + (self.lag or 0)
            return Seat(seat.slot, seat.first_round - 1) if late else seat  # a round that is frozen already

    def run() -> None:
        for seed in range(20):
            fuzz = Fuzz(seed, 1, 3, 5.0, Broken)
            for tick in range(400):
                fuzz.step(float(tick))

    with pytest.raises(AssertionError):
        run()
