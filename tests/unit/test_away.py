"""shoal/hung.py: whom everybody gave up, and whose seat is empty for longer than that of one who is well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shoal.hung import AWAY_S, Away, GivenUp
from shoal.processes import Process, slot_in


@dataclass(eq=False)
class Actor:
    at: int | None
    code: int | None = None

    def slot(self) -> int | None:
        return self.at


def test_who_is_given_up_by_all_without_a_word_in_between() -> None:
    given_up = GivenUp()
    assert not given_up.by_all("actor-0", {"actor-0", "actor-1"}, records=5)
    assert given_up.by_all("actor-1", {"actor-0", "actor-1"}, records=5)
    assert not given_up.by_all("actor-1", {"actor-0", "actor-1"}, records=5), "it was told once"
    assert not given_up.by_all("actor-0", {"actor-0", "actor-1"}, records=6), "the learner said something in between"


def test_an_actor_without_a_seat_is_told_when_it_is_away_for_too_long() -> None:
    away = Away(patience_s=20.0)
    here, lost, new = Actor(0), Actor(1), Actor(None)
    actors = cast(dict[str, Process], {"actor-0": here, "actor-1": lost, "actor-2": new})
    assert away.too_long(actors, [0, 1], 0.0) == []
    assert away.too_long(actors, [0], 10.0) == []
    assert away.too_long({"actor-2": cast(Process, new)}, [0], 999.0) == [], "it may still be starting"
    assert away.too_long(actors, [0], 10.0) == []
    new.at = 2
    assert away.too_long(actors, [0, 2], 20.0 + AWAY_S + 5.0) == [], "its seat is empty since 10 s"
    assert away.too_long(actors, [0, 2], 20.0 + AWAY_S + 10.1) == cast(Any, [lost])
    lost.code = -9
    assert away.too_long(actors, [0, 2], 99.0) == []
    back = Actor(1)
    actors["actor-1"] = cast(Process, back)
    assert away.too_long(actors, [0, 2], 99.0) == [], "another life has its own time"
    assert away.too_long(actors, [0, 1, 2], 200.0) == []
    assert away.too_long(actors, [0, 2], 201.0) == []


def test_an_actor_says_its_slot_each_time_that_it_joins(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("joined unix:/a as slot 7, first round 0\n")
    start = log.stat().st_size
    assert slot_in(log, start) is None
    with log.open("a") as file:
        file.write("--- \njoined unix:/a as slot 1, first round 0\nx joined unix:/a as slot 9\n")
        file.write("joined unix:/a as slot 3, first round 10\n")
    assert slot_in(log, start) == 3
