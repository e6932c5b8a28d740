"""Rounds, cohorts and slots: who owes which unroll, and which round comes next. Pure, one thread, time is an argument.

Round k: take batch k, do its updates, publish version k + 1. With a fixed lag, unroll u is acted with exactly version
max(0, u - lag), and a cohort (the slots whose unrolls make a batch) is frozen before anybody can act in its round:

    publishing version v and freezing the cohort of round v + lag is one step (`published`)
    who joins at version v begins with round v + lag + 1, the first that is not frozen
    the first cohorts, rounds 0 .. lag, are frozen together when all expected actors have joined
    a lost slot is waited for; its replacement repeats what is not delivered; when its grace is over it leaves

so every frozen (round, slot) is delivered exactly once or dropped, and nobody who is gone is waited for longer than the
grace. In async pace (lag None) there are seats only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from core.errors import ReplayError


class Seat(NamedTuple):
    """A place in the run, and the first round to act in."""

    slot: int
    first_round: int


class Dropped(NamedTuple):
    """An unroll that will not come: its slot has left the cohort of its round."""

    round: int
    slot: int


@dataclass
class _Seated:
    """One slot in use. `lost_until_s` is set while its actor is gone, `acting` once its stream stood."""

    incarnation: int
    lost_until_s: float | None = None
    acting: bool = False


@dataclass
class _Cohort:
    """A frozen round: who still owes an unroll, and who has delivered."""

    owes: set[int]
    delivered: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class RoundsStatus:
    """The numbers behind a decision, for `shoal status`. Slots in ascending order."""

    seated: tuple[int, ...]
    lost: dict[int, float]
    owed: dict[int, tuple[int, ...]]
    replaced: int


class Rounds:
    """The learner's book of rounds, cohorts and slots. `expected` actors make the start, at `version`.

    What is `staged` when it is delivered may be lost with a replay server until its round is over: a replacement sends
    it again, and it counts once.
    """

    def __init__(
        self,
        lag: int | None,
        grace_s: float,
        expected: int,
        version: int = 0,
        first_async_round: int = 0,
        staged: bool = False,
    ) -> None:
        self.lag = lag
        self.grace_s = grace_s
        self.expected = expected
        self.version = version
        self.deterministic = lag is not None
        self._seats: dict[int, _Seated] = {}
        self._cohorts: dict[int, _Cohort] = {}
        self._first_async_round = first_async_round
        self._staged = staged
        self._next_round: dict[int, int] = {}  # async pace: after the newest round that a slot delivered
        self._replaced = 0

    @property
    def started(self) -> bool:
        """Whether the first cohorts are frozen (never in async pace: there are none)."""
        return bool(self._cohorts)

    @property
    def versions_wanted(self) -> int:
        """How many of the newest versions an actor may ask for.

        The oldest open round acts with the one `lag` before the newest. A replacement that repeats what was staged does
        not hold the learner up, which goes on meanwhile to the first round that it owes, at most lag + 1 further.
        """
        if self.lag is None:
            return 1
        return (self.lag + 1) * (2 if self._staged else 1)

    def join(self, incarnation: int, now_s: float, wanted_slot: int | None = None) -> Seat:
        """A seat for an actor. The same life gets its own back; then `wanted_slot` and lost slots; then a fresh one.

        Who never came to act loses the slot to whoever wants it: a launcher's actor that was killed while it joined.
        """
        slot = self._find_slot(incarnation, now_s, wanted_slot)
        before = self._seats.get(slot)
        if before is not None and before.incarnation != incarnation:
            self._replaced += 1
        if self.started and (before is None or before.incarnation != incarnation):
            self.deterministic = False
        self._seats[slot] = _Seated(incarnation)
        if not self.started and len(self._seats) >= self.expected:
            self._freeze_first()
        return Seat(slot, self._first_round(slot))

    def actors_with(self, incarnation: int, now_s: float, wanted_slot: int | None = None) -> int:
        """How many seats are taken once `join` has given this actor its own."""
        return len(self._seats) + (self._find_slot(incarnation, now_s, wanted_slot) not in self._seats)

    def start(self) -> None:
        """Begin with the actors that are here; what `join` does by itself when all expected ones are."""
        if not self.started and self._seats:
            self._freeze_first()
            self.deterministic = False

    def _freeze_first(self) -> None:
        if self.lag is not None:
            for round in range(self.version, self.version + self.lag + 1):
                self._cohorts[round] = _Cohort(set(self._seats))

    def delivered(self, slot: int, round: int) -> bool:
        """The unroll is in the table. False when it was not owed: dropped, over, or delivered before."""
        if self.lag is None:
            self._next_round[slot] = max(self._next_round.get(slot, 0), round + 1)
            return True
        cohort = self._cohorts.get(round)
        if cohort is None or slot not in cohort.owes:
            return False
        cohort.owes.remove(slot)
        cohort.delivered.add(slot)
        return True

    def acts(self, slot: int, incarnation: int) -> None:
        """The actor's stream stands."""
        seat = self._seats.get(slot)
        if seat is not None and seat.incarnation == incarnation:
            seat.acting, seat.lost_until_s = True, None

    def lost(self, slot: int, incarnation: int, now_s: float) -> None:
        """The actor's stream broke. Ignored when another life has the slot by now, or it is known."""
        seat = self._seats.get(slot)
        if seat is not None and seat.incarnation == incarnation and seat.lost_until_s is None:
            seat.lost_until_s = now_s + self.grace_s

    def expire(self, now_s: float) -> list[Dropped]:
        """Slots whose grace is over leave; returns the unrolls that need not be waited for any more."""
        dropped = []
        over = [s for s, seat in self._seats.items() if seat.lost_until_s is not None and seat.lost_until_s <= now_s]
        for slot in sorted(over):
            del self._seats[slot]
            self.deterministic = self.deterministic and not self.started
            for round, cohort in self._cohorts.items():
                if slot in cohort.owes:
                    cohort.owes.remove(slot)
                    dropped.append(Dropped(round, slot))
        return sorted(dropped)

    def complete(self, round: int) -> bool:
        """Whether a frozen round can be taken: nobody owes, and somebody is there at all.

        With every actor gone the learner waits for one to join instead of running through empty rounds.
        """
        cohort = self._cohorts.get(round)
        return cohort is not None and not cohort.owes and bool(cohort.delivered or self._seats)

    def published(self) -> tuple[int, ...]:
        """Version + 1 is published and the cohort of round version + lag frozen, in one step. Returns that cohort."""
        if self.lag is None:
            self.version += 1
            return ()
        cohort = self._cohorts.get(self.version)
        if cohort is None or cohort.owes:
            raise ReplayError(
                f"version {self.version + 1} cannot be published: round {self.version} "
                + ("has not begun" if cohort is None else f"waits for slots {sorted(cohort.owes)}")
            )
        del self._cohorts[self.version]
        self.version += 1
        self._cohorts[self.version + self.lag] = _Cohort(set(self._seats))
        return tuple(sorted(self._seats))

    def cohort(self, round: int) -> tuple[int, ...] | None:
        """The slots of a frozen round, without those that were dropped; None when it is not frozen yet, or over."""
        cohort = self._cohorts.get(round)
        return None if cohort is None else tuple(sorted(cohort.owes | cohort.delivered))

    def seated(self, slot: int) -> bool:
        """Whether somebody has the slot, or is waited for."""
        return slot in self._seats

    def status(self) -> RoundsStatus:
        """All numbers."""
        return RoundsStatus(
            seated=tuple(sorted(self._seats)),
            lost={s: seat.lost_until_s for s, seat in sorted(self._seats.items()) if seat.lost_until_s is not None},
            owed={round: tuple(sorted(cohort.owes)) for round, cohort in self._cohorts.items()},
            replaced=self._replaced,
        )

    def _find_slot(self, incarnation: int, now_s: float, wanted_slot: int | None) -> int:
        for slot, seat in self._seats.items():
            if seat.incarnation == incarnation:
                return slot
        graces = {slot: seat.lost_until_s for slot, seat in self._seats.items()}
        lost = [slot for slot, until_s in graces.items() if until_s is not None and until_s > now_s]
        if wanted_slot is not None:
            free = wanted_slot not in self._seats and 0 <= wanted_slot < self.expected
            joining = wanted_slot in self._seats and not self._seats[wanted_slot].acting
            if free or joining or wanted_slot in lost:
                return wanted_slot
        return min(lost) if lost else next(s for s in range(len(self._seats) + 1) if s not in self._seats)

    def _first_round(self, slot: int) -> int:
        if self.lag is None:
            return self._next_round.get(slot, self._first_async_round)
        if not self.started:
            return self.version
        return min(
            (
                round
                for round, cohort in self._cohorts.items()
                if slot in cohort.owes or (self._staged and slot in cohort.delivered)
            ),
            default=self.version + self.lag + 1,
        )
