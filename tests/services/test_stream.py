"""core/stream.py against a real server that does what the test says: window, resend, lost acks, gaps, close."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from core import errors, rpc, wire
from core.clock import Clock, FakeClock
from core.stream import InsertStream
from core.types import UnrollHeader
from protos import experience_pb2 as pb
from tests.conftest import Threads
from tests.services.serving import DEADLINE_S, Serving, wait_until

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
SLOT, INCARNATION = 3, 77


class Connection:
    """One Insert call as the test's thread sees it."""

    def __init__(self) -> None:
        self.received: queue.Queue[pb.InsertRequest] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[pb.InsertReply | errors.ShoalError | None] = asyncio.Queue()
        self.over = threading.Event()

    def send(self, reply: pb.InsertReply | errors.ShoalError | None) -> None:
        """A reply; an error or None ends the call."""
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, reply)

    def expects(self, next_seq: int) -> pb.InsertOpen:
        """Answer `open`, which is returned."""
        opened = self.received.get(timeout=DEADLINE_S).open
        self.send(pb.InsertReply(next_seq=next_seq))
        return opened

    def ack(self, seq: int) -> None:
        """Acknowledge."""
        self.send(pb.InsertReply(ack=seq))

    def seqs(self, n: int) -> list[int]:
        """The seqs of the next `n` chunks."""
        return [self.received.get(timeout=DEADLINE_S).chunk.seq for _ in range(n)]

    async def serve(self, requests: AsyncIterator[pb.InsertRequest]) -> AsyncIterator[pb.InsertReply]:
        """Runs on the loop."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (reply := await self._outgoing.get()) is not None:
                if isinstance(reply, errors.ShoalError):
                    raise reply
                yield reply
        finally:
            reader.cancel()
            self.over.set()

    async def _read(self, requests: AsyncIterator[pb.InsertRequest]) -> None:
        async for request in requests:
            self.received.put(request)


class Scripted:
    """An Experience service whose Insert calls are handed to the test."""

    def __init__(self) -> None:
        self._connections: queue.Queue[Connection] = queue.Queue()

    def next(self) -> Connection:
        """The next Insert call."""
        return self._connections.get(timeout=DEADLINE_S)

    async def Insert(self, requests: AsyncIterator[pb.InsertRequest], context: Any) -> AsyncIterator[pb.InsertReply]:
        connection = Connection()
        self._connections.put(connection)
        async for reply in connection.serve(requests):
            yield reply

    async def Sample(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[pb.SampleReply]:
        yield pb.SampleReply()

    async def EnsureTable(self, request: Any, context: Any) -> pb.EnsureTableReply:
        return pb.EnsureTableReply()

    async def Info(self, request: Any, context: Any) -> pb.InfoReply:
        return pb.InfoReply()


@pytest.fixture
def server(serving: Serving) -> Scripted:
    scripted = Scripted()
    serving.start(EXPERIENCE, scripted)
    return scripted


Open = Callable[..., InsertStream]


@pytest.fixture
def open_stream(serving: Serving) -> Iterator[Open]:
    streams: list[InsertStream] = []

    def open_one(
        *, window: int = 3, max_chunk_bytes: int = 1 << 20, patience_s: float = 30.0, clock: Clock | None = None
    ) -> InsertStream:
        streams.append(
            InsertStream(
                serving.channel(),
                "the test's table",
                "experience",
                SLOT,
                INCARNATION,
                window=window,
                max_chunk_bytes=max_chunk_bytes,
                patience_s=patience_s,
                clock=clock,
            )
        )
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()
        assert not stream._thread.is_alive()


def insert(stream: InsertStream, n: int = 1) -> float:
    """Insert `n` items; the last one's wait."""
    waited_s = 0.0
    for _ in range(n):
        waited_s = stream.insert(UnrollHeader(SLOT, 0, 0, 6), {"x": np.arange(6).reshape(3, 2)})
    return waited_s


def error_of_insert(stream: InsertStream) -> errors.ShoalError | None:
    """What an insert raises."""
    try:
        insert(stream)
    except errors.ShoalError as error:
        return error
    return None


def blocked(stream: InsertStream) -> bool:
    """Whether somebody waits inside the stream."""
    waiters: Any = getattr(stream._changed, "_waiters")  # noqa: B009
    return bool(waiters)


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
    chunk = connection.received.get(timeout=DEADLINE_S).chunk
    assert (chunk.seq, chunk.part, chunk.parts) == (1, 0, 1)
    assert wire.header_from_proto(chunk.header) == header
    np.testing.assert_array_equal(wire.decode(chunk.payload)["x"], columns["x"])
    assert stream.unacknowledged == 1
    connection.ack(1)
    stream.flush(DEADLINE_S)
    assert stream.unacknowledged == 0


def test_a_large_item_goes_in_parts(server: Scripted, open_stream: Open) -> None:
    stream = open_stream(max_chunk_bytes=100)
    connection = server.next()
    connection.expects(1)
    columns = {"x": np.arange(60)}
    payload = wire.encode(columns)
    parts = -(-len(payload) // 100)
    assert parts > 3
    stream.insert(UnrollHeader(SLOT, 9, 9, 60), columns)
    chunks = [connection.received.get(timeout=DEADLINE_S).chunk for _ in range(parts)]
    assert [(c.seq, c.part, c.parts) for c in chunks] == [(1, n, parts) for n in range(parts)]
    assert [c.HasField("header") for c in chunks] == [True] + [False] * (parts - 1)
    assert max(len(c.payload) for c in chunks) == 100
    assert b"".join(c.payload for c in chunks) == payload


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


@pytest.mark.parametrize("next_seq", [1, 2, 5])
def test_a_gap_in_the_seqs_ends_the_stream(next_seq: int, server: Scripted, open_stream: Open) -> None:
    stream = open_stream()
    first = server.next()
    first.expects(1)
    insert(stream, 3)
    first.ack(2)
    wait_until(lambda: stream.unacknowledged == 1, "the ack")
    first.send(errors.UnavailableError("going down"))
    server.next().expects(next_seq)  # 3 or 4 would be right
    with pytest.raises(errors.ItemRejectedError, match=rf"expects seq {next_seq}, the oldest one kept here is [34]"):
        stream.flush(DEADLINE_S)
    with pytest.raises(errors.ItemRejectedError, match="start this actor anew"):
        insert(stream)


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
    assert connection.received.get(timeout=DEADLINE_S).HasField("open")
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
