"""shoal/hung.py: whom everybody gave up, and whose seat is empty for longer than that of one who is well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from shoal.hung import AWAY_S, Away, GivenUp, longest_away_s
from shoal.processes import Process


@dataclass(eq=False)
class Actor:
    pid: int | None
    code: int | None = None


def processes(*actors: Actor) -> list[Process]:
    return cast(list[Process], list(actors))


def test_who_is_given_up_by_all_without_a_word_in_between() -> None:
    given_up = GivenUp()
    assert not given_up.by_all("actor-0", {"actor-0", "actor-1"}, records=5)
    assert given_up.by_all("actor-1", {"actor-0", "actor-1"}, records=5)
    assert not given_up.by_all("actor-1", {"actor-0", "actor-1"}, records=5), "it was told once"
    assert not given_up.by_all("actor-0", {"actor-0", "actor-1"}, records=6), "the learner said something in between"


def test_an_actor_that_lost_its_seat_is_told_once_when_it_is_away_for_too_long() -> None:
    away = Away(longest_s=50.0)
    here, lost, new, far = Actor(10), Actor(11), Actor(12), Actor(None)
    actors = processes(here, lost, new, far)
    assert away.too_long(actors, [10, 11], 0.0) == []
    assert away.too_long(actors, [10], 10.0) == []
    assert away.too_long(actors, [10], 60.0) == []
    assert away.too_long(actors, [10], 60.1) == processes(lost), "the new one may still be starting"
    assert away.too_long(actors, [10], 61.0) == [], "once"


def test_an_actor_that_came_back_or_ended_is_not_away() -> None:
    away = Away(longest_s=50.0)
    one, two = Actor(10), Actor(11)
    assert away.too_long(processes(one, two), [10, 11], 0.0) == []
    assert away.too_long(processes(one, two), [], 10.0) == []
    assert away.too_long(processes(one, two), [10], 55.0) == []
    two.code = -9
    assert away.too_long(processes(one, two), [], 70.0) == []
    assert away.too_long(processes(one, Actor(12)), [], 120.0) == []
    assert away.too_long(processes(one), [], 120.1) == processes(one)


def test_an_unroll_that_takes_long_is_no_hang() -> None:
    assert longest_away_s(20.0, None) == 20.0 + AWAY_S
    assert longest_away_s(20.0, 10.0) == 20.0 + AWAY_S
    assert longest_away_s(20.0, 300.0) == 300.0
