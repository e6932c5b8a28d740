"""Who lives and takes no part any more: stopped, or without a processor for good. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Collection

from shoal.processes import Process

AWAY_S = 30.0
"""Beyond an actor's patience: for the silence to be noticed, and for a new seat."""


class GivenUp:
    """Actors that ended because they lost a learner or a table, since the learner last said anything."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._heard = 0

    def by_all(self, name: str, left: Collection[str], records: int) -> bool:
        """`name` did, too; whether that are all who are `left`. `records` are those of the learner so far."""
        if records != self._heard:
            self._heard = records
            self._names.clear()
        self._names.add(name)
        if not set(left) <= self._names:
            return False
        self._names.clear()
        return True


class Away:
    """Since when actors that live have no seat any more, of those whom the learner has seen with one.

    To be asked when the learner has said something new, and only then: it is silent in long updates and evaluations.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._seen: set[Process] = set()
        self._since_s: dict[Process, float] = {}

    def too_long(self, actors: Collection[Process], pids: Collection[int], now_s: float) -> list[Process]:
        """Those that had none for longer than one that is well may; each is told once. `pids` are who has."""
        here = {actor for actor in actors if actor.pid in pids}
        self._seen = (self._seen | here) & {actor for actor in actors if actor.code is None}
        self._since_s = {actor: self._since_s.get(actor, now_s) for actor in self._seen - here}
        over = [actor for actor, since_s in self._since_s.items() if now_s - since_s > self._longest_s]
        self._seen -= set(over)
        return over


def longest_away_s(patience_s: float, step_deadline_s: float | None) -> float:
    """An actor that is well has come back, or ended, by then: it notices in the middle of no unroll."""
    return max(patience_s + AWAY_S, step_deadline_s or 0.0)
