"""The real insert stream and the real server over a channel that loses, doubles, swaps and breaks: exactly once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.stream import InsertStream
from core.types import Array
from replay_server.replay import ReplayTable
from replay_server.service import ExperienceService
from tests.services.experience import DEFINITION, EXPERIENCE, B, T
from tests.services.faulty import FaultyInserts
from tests.services.serving import DEADLINE_S, Serving
from tests.unit.counting import CountingLife

MOST_UNROLLS = 1500
FAULTS = (
    "a lost ack",
    "a doubled ack",
    "an ack behind its next",
    "a break before an insert",
    "a break behind an insert, before its ack",
    "a doubled insert",
    "an old insert behind a new one",
)


def numbers_of(table: ReplayTable) -> list[int]:
    """Of all items, in the order of their keys."""
    ring = table.ring
    keys: Array = np.arange(ring.tail, ring.head)
    numbers: list[int] = ring.gather(keys[ring.alive(keys)])["reward"][1].tolist()
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("max_chunk_bytes", [256, 1 << 20])  # in parts; whole, several in one message
def test_every_item_is_there_once(serving: Serving, rng: np.random.Generator, max_chunk_bytes: int) -> None:
    service = ExperienceService()
    table = ReplayTable.open(replace(DEFINITION, capacity=50_000, before=1, after=1))
    service.host("experience", table)
    proxy = FaultyInserts(service, rng, 0.06)
    serving.start(EXPERIENCE, proxy)
    lives = [CountingLife(slot, 1, B, np.random.default_rng(slot), end=0.0) for slot in range(2)]
    streams = [
        InsertStream(
            serving.channel(), "the server", "experience", life.slot, 1, window=6, max_chunk_bytes=max_chunk_bytes
        )
        for life in lives
    ]
    wanted, unrolls = FAULTS if max_chunk_bytes > 256 else FAULTS[:-2], 1
    while min(proxy.faults[fault] for fault in wanted) < 4 and unrolls < MOST_UNROLLS:
        unrolls += 1
        for life, stream in zip(lives, streams, strict=True):
            columns = life.unroll(T)
            stream.insert(life.header(columns), columns, DEADLINE_S)
    proxy.chance = 0.0  # else a last ack that is lost is never made good
    for life, stream in zip(lives, streams, strict=True):
        columns = life.unroll(T)
        stream.insert(life.header(columns), columns, DEADLINE_S)
        stream.flush(DEADLINE_S)
        assert (stream.lost_rows, stream._open.incarnation) == (0, 1)
        stream.close()
    assert min(proxy.faults[fault] for fault in wanted) >= 4
    sent = [int(n) for life in lives for n in (life.base[:, None] + np.arange(unrolls * T)).ravel()]
    assert sorted(serving.on_loop(numbers_of, table)) == sorted(sent)
