"""Who lives and takes no part any more: stopped, or without a processor for good. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shoal.processes import Process

AWAY_S = 30.0
"""An actor that is well has a seat, has come back to one, or has ended, within this and the patience of its peers."""


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
    """Since when actors that live have no seat any more. One that never had any ends by itself if it gets none."""

    def __init__(self, patience_s: float) -> None:
        self._longest_s = patience_s + AWAY_S
        self._since_s: dict[Process, float] = {}

    def too_long(self, actors: Mapping[str, Process], slots: Collection[int], now_s: float) -> list[Process]:
        """Those of `actors` that sat on none of `slots` for longer than one that is well may; each is told once."""
        away = [actor for actor in actors.values() if actor.code is None and actor.slot() not in (None, *slots)]
        self._since_s = {actor: self._since_s.get(actor, now_s) for actor in away}
        return [actor for actor, since_s in self._since_s.items() if now_s - since_s > self._longest_s]
