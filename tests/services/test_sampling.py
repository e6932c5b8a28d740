"""core/sampling.py against a real server that does what the test says: order, news, reconnects, priorities, the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core import errors, rpc, wire
from core.types import Episode, UnrollHeader
from tests.conftest import Threads
from tests.services.scripted_sampling import (
    EPOCH,
    EXPERIENCE,
    OpenSampling,
    SampleServer,
    open_sampling,
    sample_server,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until

__all__ = ["open_sampling", "sample_server"]
KEYS, PRIORITIES = np.array([4, 9]), np.array([0.5, 2.0], np.float32)
SET = {"key": [4, 9], "priority": [0.5, 2.0]}


def test_opening_requests_and_replies_carry_what_was_given(
    sample_server: SampleServer, open_sampling: OpenSampling
) -> None:
    stream = open_sampling(compress=True, headers=True)
    call = sample_server.next()
    asked = call.open()
    assert (asked.protocol, asked.table, asked.seed) == (rpc.PROTOCOL, "experience", 11)
    assert (asked.by_reference, asked.compress, asked.headers) == (False, True, True)
    assert (stream.opened.table_epoch, stream.opened.max_items, stream.by_reference) == (EPOCH, 64, False)
    assert stream.request(2, 3, apply=(7, [0, 4]), priorities=(KEYS, PRIORITIES)) == 0
    draw, priorities = call.next()
    assert draw is not None
    assert (draw.draw, draw.batches, draw.batch_size) == (0, 2, 3)
    assert (draw.apply.round, list(draw.apply.slots), priorities) == (7, [0, 4], SET)
    header = UnrollHeader(4, 7, 6, 12, (Episode(3.5, 12),))
    columns = {"probability": np.full(6, 0.25), "obs": np.arange(24, dtype=np.float32).reshape(2, 6, 2)}
    call.answer(0, [5] * 6, columns, headers=[wire.header_to_proto(header)], items=8, inserted_items=9, unknown_keys=1)
    reply = stream.receive(DEADLINE_S)
    assert (reply.draw, reply.items, reply.inserted_items, reply.unknown_keys) == (0, 8, 9, 1)
    assert list(reply.headers) == [header]
    assert reply.keys is not None
    assert reply.probability is not None
    assert reply.columns is not None
    assert reply.keys.tolist() == [5] * 6
    assert reply.probability.tolist() == [0.25] * 6
    assert list(reply.columns) == ["obs"]
    np.testing.assert_array_equal(reply.columns["obs"], columns["obs"])
    assert reply.columns["obs"].flags.aligned
    assert not reply.columns["obs"].flags.owndata


def test_news_comes_between_and_without_items(sample_server: SampleServer, open_sampling: OpenSampling) -> None:
    stream = open_sampling()
    call = sample_server.next()
    call.open()
    stream.request(1)
    assert call.draws(1) == [0]
    call.news(draw=0, reason="needs 5 more items", waited_s=0.5)
    call.answer(0, [1], waited_s=0.75)
    news, reply = stream.receive(DEADLINE_S), stream.receive(DEADLINE_S)
    assert (news.keys, news.columns, news.reason, news.waited_s) == (None, None, "needs 5 more items", 0.5)
    assert (reply.reason, reply.waited_s) == ("", 0.75)
    with pytest.raises(errors.DeadlineError, match=r"sent nothing of table 'experience' for 0\.01 s"):
        stream.receive(0.01)


def test_an_unanswered_draw_is_asked_again_with_its_priorities(
    sample_server: SampleServer, open_sampling: OpenSampling
) -> None:
    stream = open_sampling()
    first = sample_server.next()
    first.open()
    for _ in range(2):
        stream.request(1, apply=(3, [1]), priorities=(KEYS, PRIORITIES))
    stream.set_priorities(KEYS, PRIORITIES)
    assert first.draws(3) == [0, 1]
    first.answer(0, [1])
    assert stream.receive(DEADLINE_S).draw == 0
    first.send(errors.UnavailableError("going down"))
    second = sample_server.next()
    second.open()
    draw, priorities = second.next()
    assert draw is not None
    assert (draw.draw, list(draw.apply.slots), priorities) == (1, [1], SET)
    assert second.next() == (None, SET)
    second.answer(1, [2])
    assert stream.receive(DEADLINE_S).draw == 1
    assert stream.request(1) == 2
    assert second.draws(1) == [2]


def test_priorities_alone_are_forgotten_when_a_draw_behind_them_is_answered(
    sample_server: SampleServer, open_sampling: OpenSampling
) -> None:
    stream = open_sampling()
    first = sample_server.next()
    first.open()
    stream.set_priorities(KEYS, PRIORITIES)
    stream.request(1)
    assert first.next() == (None, SET)
    first.answer(0, [1])
    assert stream.receive(DEADLINE_S).draw == 0
    first.send(errors.UnavailableError("going down"))
    second = sample_server.next()
    second.open()
    wait_until(lambda: stream._requests is not None, "connected again")
    stream.request(1)
    assert second.next().priorities == {}


def test_priorities_of_another_epoch_are_dropped(sample_server: SampleServer, open_sampling: OpenSampling) -> None:
    stream = open_sampling()
    first = sample_server.next()
    first.open()
    assert stream.opened.table_epoch == EPOCH
    stream.set_priorities(KEYS, PRIORITIES)
    stream.request(1, priorities=(KEYS, PRIORITIES))
    first.send(errors.UnavailableError("the table went back"))
    second = sample_server.next()
    second.open(epoch=EPOCH + 1)
    draw, priorities = second.next()
    assert draw is not None
    assert (draw.draw, priorities) == (0, {})
    assert stream.opened.table_epoch == EPOCH + 1


def test_what_is_asked_before_the_server_is_there_follows(serving: Serving, open_sampling: OpenSampling) -> None:
    stream = open_sampling()
    stream.request(2, priorities=(KEYS, PRIORITIES))
    server = SampleServer()
    serving.start(EXPERIENCE, server)
    call = server.next()
    call.open()
    draw, priorities = call.next()
    assert draw is not None
    assert (draw.batches, priorities) == (2, SET)


def test_a_refused_draw_ends_the_stream_with_the_servers_words(
    sample_server: SampleServer, open_sampling: OpenSampling
) -> None:
    stream = open_sampling()
    call = sample_server.next()
    call.open()
    stream.request(9)
    call.answer(0, [1])
    call.send(errors.TooLargeError("a draw of 9 batches has 99 bytes, the limit is 64"))
    assert stream.receive(DEADLINE_S).draw == 0
    for use in (lambda: stream.receive(DEADLINE_S), lambda: stream.receive(DEADLINE_S), lambda: stream.request(1)):
        with pytest.raises(errors.TooLargeError, match="99 bytes, the limit is 64"):
            use()


def test_an_answer_that_is_not_due_ends_the_stream(sample_server: SampleServer, open_sampling: OpenSampling) -> None:
    stream = open_sampling()
    call = sample_server.next()
    call.open()
    stream.request(1)
    call.answer(3, [1])
    with pytest.raises(errors.ReplayError, match="draw 3 was answered"):
        stream.receive(DEADLINE_S)


def test_nobody_answers_for_longer_than_the_patience(open_sampling: OpenSampling) -> None:
    stream = open_sampling(patience_s=0.0)
    with pytest.raises(errors.UnavailableError, match="the test's table cannot be reached"):
        _ = stream.opened
    with pytest.raises(errors.UnavailableError):
        stream.receive(DEADLINE_S)


def catch(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except errors.ShoalError as error:
        return error
    return None


def test_wake_and_close_end_a_wait(sample_server: SampleServer, open_sampling: OpenSampling, threads: Threads) -> None:
    stream = open_sampling()
    call = sample_server.next()
    call.open()
    waiting = threads.start(catch, stream.receive)
    stream.wake()
    assert "was woken" in str(waiting.result(DEADLINE_S))
    waiting = threads.start(catch, stream.receive)
    stream.close()
    assert isinstance(waiting.result(DEADLINE_S), errors.TableClosedError)
    assert call.over.wait(DEADLINE_S)
    with pytest.raises(errors.TableClosedError):
        stream.request(1)


def test_close_ends_the_wait_for_the_opening(
    sample_server: SampleServer, open_sampling: OpenSampling, threads: Threads
) -> None:
    stream = open_sampling()
    waiting = threads.start(catch, lambda: stream.opened)
    sample_server.next()
    stream.close()
    assert isinstance(waiting.result(DEADLINE_S), errors.TableClosedError)


def test_priorities_of_keys_from_before_a_rollback_are_not_sent(
    sample_server: SampleServer, open_sampling: OpenSampling
) -> None:
    stream = open_sampling()
    first = sample_server.next()
    first.open()
    stream.request(1)
    assert first.draws(1) == [0]
    first.answer(0, [1])
    assert stream.receive(DEADLINE_S).epoch == EPOCH
    first.send(errors.UnavailableError("the table went back"))
    second = sample_server.next()
    second.open(epoch=EPOCH + 1)
    wait_until(lambda: stream.opened.table_epoch == EPOCH + 1, "connected again")
    stream.set_priorities(KEYS, PRIORITIES)
    stream.request(0, priorities=(KEYS, PRIORITIES))
    draw, priorities = second.next()
    assert draw is not None
    assert (draw.draw, priorities) == (1, {"key": [], "priority": []})
    stream.request(1, priorities=(KEYS, PRIORITIES))
    draw, priorities = second.next()
    assert draw is not None
    assert (draw.draw, priorities) == (2, {})
    second.answer(1, [])
    second.answer(2, [1])
    assert [stream.receive(DEADLINE_S).epoch for _ in range(2)] == [EPOCH + 1] * 2
    stream.set_priorities(KEYS, PRIORITIES)
    assert second.next() == (None, SET)
