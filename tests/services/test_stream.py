"""core/stream.py against a real server that does what the test says: window, resend, lost acks, gaps, close."""

from __future__ import annotations

import numpy as np
import pytest

from core import errors, rpc, wire
from core.clock import FakeClock
from core.types import UnrollHeader
from tests.conftest import Threads
from tests.services.scripted import (
    EXPERIENCE,
    INCARNATION,
    SLOT,
    Open,
    Scripted,
    blocked,
    insert,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until


def test_open_says_who_comes_and_items_arrive_whole(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    connection = server.next()
    opened = connection.expects(1)
    assert (opened.protocol, opened.table, opened.slot, opened.incarnation) == (
        rpc.PROTOCOL,
        "experience",
        SLOT,
        INCARNATION,
    )
    header, columns = UnrollHeader(SLOT, 4, 3, 6), {"x": np.arange(6).reshape(3, 2)}
    assert stream.insert(header, columns) < DEADLINE_S
    _, chunk, payload, _ = connection.received.get(timeout=DEADLINE_S)
    assert (chunk.seq, chunk.part, chunk.parts) == (1, 0, 1)
    assert wire.header_from_proto(chunk.header) == header
    np.testing.assert_array_equal(wire.decode(payload)["x"], columns["x"])
    assert stream.unacknowledged == 1
    connection.ack(1)
    stream.flush(DEADLINE_S)
    assert stream.unacknowledged == 0


@pytest.mark.parametrize(("items", "most"), [(60, 64), (50_000, 1 << 16)])
def test_a_large_item_goes_in_parts(items: int, most: int, server: Scripted, open_stream: Open) -> None:
    stream = open_stream(max_chunk_bytes=most + 36)  # cut down to a multiple of 64
    connection = server.next()
    connection.expects(1)
    columns = {"x": np.arange(items)}
    payload = wire.encode(columns)
    parts = -(-len(payload) // most)
    assert parts > 3
    stream.insert(UnrollHeader(SLOT, 9, 9, 60), columns)
    received = [connection.received.get(timeout=DEADLINE_S) for _ in range(parts)]
    chunks = [one.chunk for one in received]
    assert [(c.seq, c.part, c.parts) for c in chunks] == [(1, n, parts) for n in range(parts)]
    assert [c.HasField("header") for c in chunks] == [True] + [False] * (parts - 1)
    assert max(len(one.payload) for one in received) == most
    assert b"".join(one.payload for one in received) == payload


def test_the_window_holds_the_next_insert_until_an_ack(server: Scripted, open_stream: Open, threads: Threads) -> None:
    clock = FakeClock()
    stream = open_stream(window=2, clock=clock)
    connection = server.next()
    connection.expects(1)
    assert insert(stream, 2) == 0.0
    third = threads.start(insert, stream)
    wait_until(lambda: blocked(stream), "the third insert waits")
    assert connection.seqs(2) == [1, 2]
    assert not third.done()
    assert connection.received.empty()
    clock.advance(5.0)
    connection.ack(1)
    assert third.result(DEADLINE_S) == 5.0
    assert connection.seqs(1) == [3]
    assert stream.unacknowledged == 2


def test_items_sent_before_the_connection_stands_follow_it(serving: Serving, open_stream: Open) -> None:
    stream = open_stream()
    insert(stream, 2)
    server = Scripted()
    serving.start(EXPERIENCE, server)
    connection = server.next()
    connection.expects(1)
    assert connection.seqs(2) == [1, 2]
    insert(stream)
    assert connection.seqs(1) == [3]


def test_a_broken_connection_is_resumed_where_the_server_says(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1)
    insert(stream, 3)
    assert first.seqs(3) == [1, 2, 3]
    first.ack(1)
    wait_until(lambda: stream.unacknowledged == 2, "the first ack")
    first.send(errors.UnavailableError("going down"))
    second = server.next()
    second.expects(3)  # seq 2 was applied, its ack was lost
    assert second.seqs(1) == [3]
    assert stream.unacknowledged == 1
    insert(stream)
    assert second.seqs(1) == [4]
    second.ack(4)
    stream.flush(DEADLINE_S)
    assert second.received.empty()


def test_an_ack_stands_for_those_before_it_and_may_come_twice(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    connection = server.next()
    connection.expects(1)
    insert(stream, 3)
    connection.ack(2)
    wait_until(lambda: stream.unacknowledged == 1, "one ack for two")
    for seq in (2, 1, 2, 3, 3):
        connection.ack(seq)
    stream.flush(DEADLINE_S)
    insert(stream)
    assert connection.seqs(4) == [1, 2, 3, 4]
    assert stream.unacknowledged == 1


def test_a_server_that_starts_again_gets_what_it_missed(
    serving: Serving, server: Scripted, open_stream: Open, threads: Threads
) -> None:
    stream = open_stream(window=2)
    connection = server.next()
    connection.expects(1)
    insert(stream, 2)
    assert connection.seqs(2) == [1, 2]
    waiting = threads.start(insert, stream)
    serving.stop()
    restarted = Scripted()
    serving.start(EXPERIENCE, restarted)
    connection = restarted.next()
    connection.expects(2)
    assert waiting.result(DEADLINE_S) > 0
    assert connection.seqs(2) == [2, 3]


def test_parts_are_resent_from_the_first(server: Scripted, open_stream: Open) -> None:
    stream = open_stream(max_chunk_bytes=100)
    first = server.next()
    first.expects(1)
    insert(stream)
    parts = [first.received.get(timeout=DEADLINE_S).chunk.part]
    first.send(errors.UnavailableError("going down"))
    second = server.next()
    second.expects(1)
    parts += [second.received.get(timeout=DEADLINE_S).chunk.part for _ in range(2)]
    assert parts == [0, 0, 1]


def test_small_items_that_wait_share_a_message(serving: Serving, open_stream: Open) -> None:
    stream = open_stream(window=8)
    insert(stream, 5)  # nobody is there yet
    server = Scripted()
    serving.start(EXPERIENCE, server)
    connection = server.next()
    connection.expects(1)
    received = [connection.received.get(timeout=DEADLINE_S) for _ in range(5)]
    assert [one.chunk.seq for one in received] == [1, 2, 3, 4, 5]
    assert len({one.message for one in received}) < 3
    for one in received:
        np.testing.assert_array_equal(wire.decode(one.payload)["x"], np.arange(6).reshape(3, 2))


def test_close_ends_the_life_when_all_is_acknowledged(server: Scripted, open_stream: Open, threads: Threads) -> None:
    stream = open_stream()
    connection = server.next()
    connection.expects(1)
    insert(stream, 2)
    assert connection.seqs(2) == [1, 2]
    connection.ack(2)
    stream.flush(DEADLINE_S)
    closing = threads.start(stream.close)
    assert connection.over_said.wait(DEADLINE_S)
    connection.send(None)
    closing.result(DEADLINE_S)


def test_close_does_not_end_a_life_with_unacknowledged_items(server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    connection = server.next()
    connection.expects(1)
    insert(stream)
    assert connection.seqs(1) == [1]
    stream.close()
    assert connection.over.wait(DEADLINE_S)
    assert not connection.over_said.is_set()


def test_who_waits_elsewhere_is_told_what_broke_the_stream(server: Scripted, open_stream: Open) -> None:
    stream, told = open_stream(), list[errors.ShoalError]()
    stream.when_broken(told.append)
    connection = server.next()
    connection.expects(1)
    insert(stream)
    connection.send(errors.ItemRejectedError("no such column"))
    wait_until(lambda: bool(told), "the stream broke")
    assert str(told[0]).endswith("no such column")
    late = list[errors.ShoalError]()
    stream.when_broken(late.append)
    assert late == told
