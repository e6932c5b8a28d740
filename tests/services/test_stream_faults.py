"""core/stream.py when connections break, servers refuse and streams are closed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from core import errors
from core import stream as stream_module
from core.clock import FakeClock
from core.stream import InsertStream
from tests.conftest import Threads
from tests.services.scripted import (
    EXPERIENCE,
    INCARNATION,
    SLOT,
    Open,
    Scripted,
    blocked,
    error_of_insert,
    insert,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until


@pytest.mark.parametrize("next_seq", [1, 2])
def test_a_server_that_lost_its_memory_gets_a_new_life_and_all_that_is_held(
    next_seq: int, server: Scripted, open_stream: Open
) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1, epoch=5)
    insert(stream, 3)
    first.ack(2)
    wait_until(lambda: stream.unacknowledged == 1, "the ack")
    first.send(errors.UnavailableError("going down"))
    server.next().expects(next_seq, epoch=6)  # of 3, which is held, nothing is known any more
    third = server.next()
    opened = third.expects(1, epoch=6)
    assert opened.incarnation != INCARNATION
    assert third.seqs(1) == [1]
    third.ack(1)
    stream.flush(DEADLINE_S)
    assert stream.lost_rows == 6 * (3 - next_seq)
    insert(stream)
    assert third.seqs(1) == [2]


@pytest.mark.parametrize("next_seq", [1, 5])
def test_a_life_that_was_forgotten_resends_nothing_that_might_be_there(
    next_seq: int, server: Scripted, open_stream: Open
) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1, epoch=5)
    insert(stream, 3)
    first.ack(2)
    wait_until(lambda: stream.unacknowledged == 1, "the ack")
    first.send(errors.UnavailableError("going down"))
    server.next().expects(next_seq, epoch=5)
    third = server.next()
    assert third.expects(1, epoch=5).incarnation != INCARNATION
    stream.flush(DEADLINE_S)
    insert(stream)
    assert third.seqs(1) == [1]
    assert stream.lost_rows == (18 if next_seq == 1 else 0)


@pytest.mark.parametrize("kind", [errors.SchemaError, errors.ItemRejectedError, errors.PeerIncompatibleError])
def test_an_error_that_no_retry_mends_surfaces_in_a_waiting_insert(
    kind: type[errors.ShoalError], server: Scripted, open_stream: Open, threads: Threads
) -> None:
    stream = open_stream(window=1)
    connection = server.next()
    connection.expects(1)
    insert(stream)
    waiting = threads.start(error_of_insert, stream)
    wait_until(lambda: blocked(stream), "the second insert waits")
    connection.send(kind("column 'obs' is odd"))
    error = waiting.result(DEADLINE_S)
    assert type(error) is kind
    assert str(error) == "column 'obs' is odd"


def test_close_wakes_a_waiting_insert(server: Scripted, open_stream: Open, threads: Threads) -> None:
    stream = open_stream(window=1)
    connection = server.next()
    connection.expects(1)
    insert(stream)
    waiting = threads.start(error_of_insert, stream)
    wait_until(lambda: blocked(stream), "the second insert waits")
    stream.close()
    assert isinstance(waiting.result(DEADLINE_S), errors.TableClosedError)
    assert connection.over.wait(DEADLINE_S)
    with pytest.raises(errors.TableClosedError):
        insert(stream)


def test_close_before_the_server_answered_ends_the_thread(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    connection = server.next()
    assert connection.received.get(timeout=DEADLINE_S).open is not None
    stream.close()
    assert not stream._thread.is_alive()
    assert connection.over.wait(DEADLINE_S)


def test_close_while_nobody_answers_ends_the_thread(open_stream: Open) -> None:
    stream = open_stream()
    wait_until(lambda: blocked(stream), "the pause before the next attempt")
    stream.close()
    assert not stream._thread.is_alive()


@pytest.mark.parametrize("answered", [False, True])
def test_a_server_that_ends_the_call_without_an_error_is_tried_again(
    answered: bool, server: Scripted, open_stream: Open
) -> None:
    stream = open_stream()
    first = server.next()
    if answered:
        first.expects(1)
    first.send(None)
    second = server.next()
    second.expects(1)
    insert(stream)
    assert second.seqs(1) == [1]


def test_patience_ends_when_nobody_answers(open_stream: Open) -> None:
    clock = FakeClock()
    stream = open_stream(patience_s=30.0, clock=clock)
    insert(stream)
    wait_until(lambda: blocked(stream), "the first attempt failed")
    clock.advance(29.0)
    with pytest.raises(errors.DeadlineError, match=r"left 1 items unacknowledged for 0.1 s"):
        stream.flush(0.1)
    clock.advance(2.0)
    with pytest.raises(errors.UnavailableError, match="the test's table cannot be reached"):
        stream.flush(DEADLINE_S)


def test_patience_starts_anew_after_a_connection_stood(serving: Serving, server: Scripted, open_stream: Open) -> None:
    clock = FakeClock()
    stream = open_stream(patience_s=30.0, clock=clock)
    server.next().expects(1)
    insert(stream)
    clock.advance(1000.0)
    serving.stop()
    restarted = Scripted()
    serving.start(EXPERIENCE, restarted)
    connection = restarted.next()
    connection.expects(1)
    connection.ack(1)
    stream.flush(DEADLINE_S)
    assert stream.unacknowledged == 0


def test_a_closed_channel_surfaces_when_patience_ends(serving: Serving, server: Scripted) -> None:
    clock = FakeClock()
    channel = serving.channel()
    stream = InsertStream(channel, "the test's table", "experience", SLOT, INCARNATION, patience_s=1.0, clock=clock)
    server.next().expects(1)
    insert(stream)
    channel.close()
    wait_until(lambda: blocked(stream), "the channel is seen to be closed")
    clock.advance(2.0)
    with pytest.raises(errors.UnavailableError, match="cannot be reached any more"):
        stream.flush(DEADLINE_S)
    stream.close()


def test_flush_says_who_holds_the_items(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    server.next().expects(1)
    insert(stream, 2)
    with pytest.raises(errors.DeadlineError, match=r"the test's table left 2 items unacknowledged for 0.01 s"):
        stream.flush(0.01)


@pytest.mark.parametrize("retried", [errors.UnavailableError, errors.DeadlineError, errors.TableClosedError])
def test_errors_that_time_may_mend_are_retried(
    retried: type[errors.ShoalError], server: Scripted, open_stream: Open
) -> None:
    stream = open_stream()
    server.next().send(retried("not now"))
    connection = server.next()
    connection.expects(1)
    insert(stream)
    assert connection.seqs(1) == [1]


def test_nothing_is_lost_or_doubled_on_a_bad_connection(
    server: Scripted, open_stream: Open, threads: Threads, rng: np.random.Generator
) -> None:
    total, applied, acked = 60, 0, 0
    stream = open_stream(window=4)
    sender = threads.start(insert, stream, total)
    while applied < total:
        connection = server.next()
        connection.expects(applied + 1)
        acked = applied
        for _ in range(int(rng.integers(1, 25))):
            if applied == total:
                break
            (seq,) = connection.seqs(1)
            assert seq == applied + 1
            applied += 1
            if rng.random() < 0.7 or applied - acked == 4:  # a lost ack is made good by the next, or by next_seq
                connection.ack(seq)
                acked = seq
        if applied < total:
            connection.send(errors.UnavailableError("cut"))
        else:
            connection.ack(seq)
    sender.result(DEADLINE_S)
    stream.flush(DEADLINE_S)
    assert stream.unacknowledged == 0


def test_a_table_that_is_gone_may_be_made_again(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1, epoch=5)
    insert(stream)
    first.ack(1)
    stream.flush(DEADLINE_S)
    first.send(errors.UnavailableError("restarts"))
    server.next().send(errors.TableNotFoundError("no table 'experience'"))
    server.next().expects(1, epoch=6)
    assert server.next().expects(1, epoch=6).incarnation != INCARNATION
    assert stream.lost_rows == 6


def test_a_table_that_never_was_is_an_error(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    insert(stream)
    server.next().send(errors.TableNotFoundError("no table 'experience'"))
    with pytest.raises(errors.TableNotFoundError):
        stream.flush(DEADLINE_S)


def test_what_nobody_foresaw_ends_the_stream_and_not_only_its_thread(
    server: Scripted, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: InsertStream, _seq: int) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(InsertStream, "_acknowledge", fail)
    stream = open_stream()
    insert(stream)
    server.next().expects(1)
    with pytest.raises(errors.ReplayError, match="the insert stream of 'experience' failed: ZeroDivisionError"):
        stream.flush(DEADLINE_S)


def test_a_staged_table_is_sent_again_what_it_does_not_know(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1, epoch=5, staged=True)
    insert(stream, 3)
    first.ack(1)
    wait_until(lambda: stream.unacknowledged == 2, "the ack")
    first.send(errors.UnavailableError("going down"))
    server.next().expects(1, epoch=5, staged=True)
    third = server.next()
    assert third.expects(1, epoch=5, staged=True).incarnation != INCARNATION
    assert third.seqs(2) == [1, 2]


def test_heads_that_share_a_message_are_bounded(
    server: Scripted, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_MERGED_HEAD_BYTES", 40)
    stream = open_stream(window=20)
    connection = server.next()
    insert(stream, 20)
    connection.expects(1)
    received = [connection.received.get(timeout=DEADLINE_S) for _ in range(20)]
    assert [r.chunk.seq for r in received] == list(range(1, 21))
    per_message = Counter(r.message for r in received)
    assert 1 < max(per_message.values()) <= 40 // received[0].chunk.ByteSize() + 1
