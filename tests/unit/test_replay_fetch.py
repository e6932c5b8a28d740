"""learner/replay.py on a scripted stream: what is asked for in which order, and what is delivered."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.draws import Reply
from core.errors import DeadlineError, TableClosedError, UnavailableError
from core.types import Array, Replay, UnrollHeader
from learner.coordinator import CompleteRound
from learner.pace import Drawing
from learner.replay import AsyncFetch, LagFetch
from replay_server.replay import ReplayTable
from tests.services.experience import DEFINITION
from tests.services.serving import wait_until

DEADLINE_S = 10.0
TABLE = Replay(capacity=100, batch_size=4, min_size=10, updates_per_env_step=0.5, batches_per_round=3, prioritised=True)


def header(slot: int, round_: int = 0, env_steps: int = 4) -> UnrollHeader:
    return UnrollHeader(slot, round_, 0, env_steps)


class Stream:
    """Answers every draw at once, its keys counted through; what the test puts into `replies` comes first."""

    def __init__(self, auto: bool = True) -> None:
        self.asked: list[tuple[int, int, Any, Any]] = []
        self.replies: queue.SimpleQueue[Reply | BaseException] = queue.SimpleQueue()
        self._auto, self._key = auto, 0

    def request(
        self,
        batches: int,
        batch_size: int = 0,
        *,
        apply: tuple[int, Sequence[int]] | None = None,
        priorities: tuple[Array, Array] | None = None,
    ) -> int:
        told = None if priorities is None else [column.tolist() for column in priorities]
        self.asked.append((batches, batch_size, apply, told))
        if self._auto:
            self.replies.put(self.drawn(batches * batch_size))
        return len(self.asked) - 1

    def drawn(self, n: int, headers: Sequence[UnrollHeader] = (), inserted: int = 50) -> Reply:
        keys = np.arange(self._key, self._key + n)
        self._key += n
        columns = {"obs": np.stack([keys, keys + 1000]), "memory": keys.copy()} if n else {}
        return Reply(0, keys, keys / 100, columns, headers, 40, inserted, 0, 0.25, "", 0)

    def news(self, *headers: UnrollHeader, waited_s: float = 0.5, reason: str = "it waits") -> None:
        self.replies.put(Reply(0, None, None, None, headers, 0, 0, 0, waited_s, reason, 0))

    def receive(self, timeout_s: float | None = None) -> Reply:
        got = self.replies.get(timeout=DEADLINE_S)
        if isinstance(got, BaseException):
            raise got
        return got

    @property
    def next_draw(self) -> int:
        return len(self.asked)

    def wake(self) -> None:
        self.replies.put(DeadlineError("woken"))

    def close(self) -> None:
        self.replies.put(TableClosedError("closed"))


def async_fetch(stream: Stream, max_items: int = 100) -> tuple[AsyncFetch, list[UnrollHeader]]:
    noted: list[UnrollHeader] = []
    return AsyncFetch(stream, TABLE, max_items, {"memory"}, noted.extend), noted


def test_two_rounds_are_requested_before_they_are_needed() -> None:
    stream = Stream()
    fetch, _ = async_fetch(stream)
    assert stream.asked == [(3, 4, None, None)] * 2
    fetched = fetch()
    assert fetched is not None
    assert stream.asked == [(3, 4, None, None)] * 3
    columns, delivery = fetched
    assert columns is not None
    assert set(columns) == {"obs", "memory", "probability"}
    assert columns["probability"].tolist() == [n / 100 for n in range(12)]
    assert delivery.keys is not None
    assert delivery.keys.tolist() == list(range(12))
    assert (delivery.is_round, delivery.limiter_wait_s) == (True, 0.25)


def test_draws_over_the_servers_limit_are_cut_and_joined() -> None:
    stream = Stream(auto=False)
    fetch, noted = async_fetch(stream, max_items=8)
    assert stream.asked == [(2, 4, None, None), (1, 4, None, None)] * 2
    stream.replies.put(stream.drawn(8, [header(0)]))
    stream.news(header(1))
    stream.replies.put(stream.drawn(4, [header(2)]))
    news = fetch()
    assert news is not None
    assert (news[0], news[1].is_round, news[1].headers) == (None, False, (header(1),))
    fetched = fetch()
    assert fetched is not None
    columns, delivery = fetched
    assert columns is not None
    assert columns["obs"].tolist() == [list(range(12)), list(range(1000, 1012))]
    assert columns["memory"].tolist() == list(range(12))
    assert delivery.keys is not None
    assert delivery.keys.tolist() == list(range(12))
    assert delivery.headers == [header(0), header(2)]
    assert noted == [header(0), header(1), header(2)]
    assert delivery.limiter_wait_s == 0.5


def test_priorities_go_with_the_next_request_all_that_are_there() -> None:
    stream = Stream()
    fetch, _ = async_fetch(stream, max_items=8)
    for keys in ([3, 1], [2]):
        fetch.set_priorities(np.array(keys), np.array(keys) / 2)
    fetch()
    fetch()
    told = [priorities for _, _, _, priorities in stream.asked[4:]]
    assert told == [[[3, 1, 2], [1.5, 0.5, 1.0]], None, None, None]


@pytest.mark.parametrize("error", [UnavailableError("gone"), DeadlineError("silent for 30 s")])
def test_what_broke_the_stream_for_good_is_raised(error: Exception) -> None:
    stream = Stream(auto=False)
    fetch, _ = async_fetch(stream)
    stream.replies.put(error)
    with pytest.raises(type(error), match=str(error)):
        fetch()


@pytest.mark.parametrize("lag", [False, True])
def test_close_ends_the_fetching_and_a_closed_table_is_an_error(lag: bool) -> None:
    stream = Stream(auto=False)
    fetch = lag_fetch(stream)[0] if lag else async_fetch(stream)[0]
    stream.close()
    with pytest.raises(TableClosedError):
        fetch()
    fetch.close()
    assert fetch() is None


# ------------------------------------------------------------------------------------------------ a fixed lag

Rounds = queue.SimpleQueue[CompleteRound | None]
PATIENCE_S = 30.0
BEGIN = Drawing(seed=5)


def lag_fetch(
    stream: Stream, max_items: int = 100, begin: Drawing = BEGIN
) -> tuple[LagFetch, Rounds, list[UnrollHeader]]:
    noted: list[UnrollHeader] = []
    rounds: Rounds = queue.SimpleQueue()
    return LagFetch(stream, TABLE, max_items, {"memory"}, noted.extend, rounds, PATIENCE_S, begin), rounds, noted


def test_a_round_is_applied_then_priorities_then_what_is_due() -> None:
    stream = Stream()
    fetch, rounds, _ = lag_fetch(stream, max_items=8)
    assert stream.asked == []
    delivered = []
    for round_, env_steps in enumerate((4, 4, 4, 8)):  # min_size 10, half an update an env step
        rounds.put(CompleteRound(round_, (header(0, round_, env_steps - 2), header(2, round_, 2))))
        fetched = fetch()
        assert fetched is not None
        assert fetched[1].is_round
        assert [h.slot for h in fetched[1].headers] == [0, 2]
        assert fetched[1].limiter_wait_s == 0.0
        delivered.append(None if fetched[1].keys is None else len(fetched[1].keys))
        fetch.set_priorities(np.array([round_]), np.array([0.5]))
    assert delivered == [None, None, 4, 16]
    assert stream.asked == [
        (0, 0, (0, [0, 2]), None),
        (0, 0, (1, [0, 2]), [[0], [0.5]]),
        (1, 4, (2, [0, 2]), [[1], [0.5]]),
        (2, 4, (3, [0, 2]), [[2], [0.5]]),
        (2, 4, None, None),
    ]


def test_an_empty_cohort_is_applied_too() -> None:
    stream = Stream()
    fetch, rounds, _ = lag_fetch(stream)
    rounds.put(CompleteRound(3, ()))
    fetched = fetch()
    assert fetched is not None
    assert (fetched[0], fetched[1].is_round, fetched[1].headers) == (None, True, ())
    assert stream.asked == [(0, 0, (3, []), None)]


def test_an_empty_table_is_not_drawn_from_and_the_updates_come_later() -> None:
    stream = Stream(auto=False)
    fetch, rounds, _ = lag_fetch(stream)
    for inserted in (0, 6, 6):
        stream.replies.put(stream.drawn(0, inserted=inserted))
        rounds.put(CompleteRound(0, (header(0, env_steps=20),)))
        fetch()
    assert [batches for batches, *_ in stream.asked] == [0, 0, 25]  # floor(50 x 0.5)


def reasons() -> dict[str, str | None]:
    """Why a real table holds a staged round and its draw back, and what the learner says of it."""
    table = ReplayTable.open(replace(DEFINITION, min_size=1))
    found = {
        "An unroll went with both its actor and the replay server; go on": table.why_apply_waits(7, [0]),
        "The table lost the items that were to be drawn from; go on": table.why_sample_waits(4),
    }
    table.marked(-1)
    return {
        **found,
        "Its manifests cannot be written.*; go on": table.why_apply_waits(7, []),
        "The replay server's log may say more; go on": "",
    }


@pytest.mark.parametrize(("what", "reason"), reasons().items())
def test_a_round_that_cannot_be_applied_is_waited_for_until_a_deadline(what: str, reason: str | None) -> None:
    assert reason is not None
    stream = Stream(auto=False)
    fetch, rounds, _ = lag_fetch(stream)
    rounds.put(CompleteRound(7, (header(0),)))
    for waited_s in (0.5, PATIENCE_S, PATIENCE_S + 0.5):
        stream.news(waited_s=waited_s, reason=reason)
    said = re.escape(reason or "no reason told")
    with pytest.raises(DeadlineError, match=rf"round 7 was staged .* for 30 s .*: {said}\. {what}"):
        fetch()
    assert stream.replies.empty()


def test_a_table_that_went_back_in_time_is_noticed_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(auto=False)
    fetch, rounds, _ = lag_fetch(stream)
    went_back = []
    with caplog.at_level(logging.WARNING):
        for round_, epoch in enumerate((0xA, 0xA, 0xB, 0xB)):
            stream.replies.put(stream.drawn(0)._replace(epoch=epoch))
            rounds.put(CompleteRound(round_, ()))
            fetch()
            went_back.append(fetch.went_back)
    assert went_back == [False, False, True, True]
    (record,) = caplog.records
    assert "round 2: the replay table went back in time (epoch a is b now)" in record.getMessage()


def test_news_are_noted_while_a_round_is_waited_for_and_a_wake_shows_it() -> None:
    stream = Stream(auto=False)
    fetch, rounds, noted = lag_fetch(stream)
    stream.news(header(0))
    fetched: list[Any] = []
    thread = threading.Thread(target=lambda: fetched.append(fetch()), daemon=True)
    thread.start()
    wait_until(lambda: noted == [header(0)], "the news are noted")
    rounds.put(CompleteRound(0, (header(0),)))
    fetch.wake()
    wait_until(lambda: len(stream.asked) == 1, "the round is asked for")
    fetch.wake()  # of no use now, and harmless
    stream.news(header(1, 1))
    stream.replies.put(stream.drawn(0))
    thread.join(DEADLINE_S)
    assert len(fetched) == 1
    assert noted == [header(0), header(1, 1)]
    rounds.put(None)
    assert fetch() is None


def test_it_goes_on_where_a_checkpoint_left_off() -> None:
    whole, halves = Stream(), [Stream(), Stream()]

    def play(fetch: LagFetch, rounds: Rounds, numbers: range) -> list[Any]:
        for round_ in numbers:
            rounds.put(CompleteRound(round_, (header(0, round_, 7),)))
            fetched = fetch()
            assert fetched is not None
            if fetched[1].keys is not None:
                fetch.set_priorities(fetched[1].keys[:2], np.full(2, round_))
        return []

    fetch, rounds, _ = lag_fetch(whole)
    play(fetch, rounds, range(8))
    first, rounds, _ = lag_fetch(halves[0])
    play(first, rounds, range(5))
    left = Drawing.from_plain(first.drawing().to_plain())
    assert (left.seed, left.next_draw, left.env_steps, left.may_draw) == (5, len(halves[0].asked), 35, True)
    second, rounds, _ = lag_fetch(halves[1], begin=left)
    halves[1]._key = halves[0]._key
    play(second, rounds, range(5, 8))
    assert halves[0].asked + halves[1].asked == whole.asked
    assert any(asked[3] for asked in halves[1].asked[:1]), "priorities that were not set yet come first"
