"""How much of a learner one actor's token can take: seats, words in its log, streams of weights."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import ConfigError
from learner import coordinator as module
from learner.publisher import Publisher
from tests.unit.coordinating import Run


def test_there_are_so_many_seats_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SEATS", 2)
    run = Run(None)
    run.join(1)
    run.join(2)
    with pytest.raises(ConfigError, match="it would be the actor 3; a learner has at most 2"):
        run.join(3)
    assert run.join(2).slot == 1, "who has a seat gets it again"


def test_a_hosts_name_is_short_and_in_one_line() -> None:
    run = Run(None)
    run.coordinator.join(1, "host\n2026-12-01 INFO all is well" + "x" * 1000, 1)
    (seated,) = run.coordinator.seated()
    assert seated.host.startswith("host?2026")
    assert len(seated.host) == 255


def test_an_actors_newer_stream_ends_the_older_one() -> None:
    async def test() -> None:
        run = Run(0, expected=1)
        seat = run.coordinator.join(1, "host", 1)
        former = run.coordinator.lease(seat.slot, 1)
        published: Publisher = run.publisher
        older = published.subscribe(0, True, lambda: run.coordinator.holds(seat.slot, 1, former))
        waiting = asyncio.create_task(anext(older, None))
        await asyncio.sleep(0)
        assert run.coordinator.holds(seat.slot, 1, former)
        newer = run.coordinator.lease(seat.slot, 1)
        assert await asyncio.wait_for(waiting, 10.0) is None
        run.coordinator.lost(seat.slot, 1, former)  # of the older one: too late
        assert run.coordinator.actors[seat.slot].state == "acting"
        run.publish(0)
        again = published.subscribe(0, True, lambda: run.coordinator.holds(seat.slot, 1, newer))
        assert await anext(again) == b"weights"
        await again.aclose()

    asyncio.run(test())
