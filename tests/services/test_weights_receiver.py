"""actors/weights.py against a real server that does what the test says: order, newest, the end, lost streams."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from actors.weights import WeightsReceiver
from core import errors, rpc
from core.clock import FakeClock
from learner.publisher import encode
from protos import learner_pb2 as pb
from tests.conftest import Threads
from tests.services.serving import DEADLINE_S, Serving, wait_until

LEARNER = pb.DESCRIPTOR.services_by_name["Learner"]
SLOT, INCARNATION, LEARNER_INCARNATION = 2, 55, 99


class Stream:
    """One Weights call as the test's thread sees it."""

    def __init__(self, request: pb.WeightsRequest) -> None:
        self.request = request
        self.over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[bytes | errors.ShoalError | None] = asyncio.Queue()

    def send(self, reply: bytes | errors.ShoalError | None) -> None:
        """A reply; an error or None ends the call."""
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, reply)

    def publish(self, *versions: int, learner: int = LEARNER_INCARNATION) -> None:
        """Versions whose params are four bytes of the version."""
        for version in versions:
            snapshot = pb.Snapshot(
                learner_incarnation=learner, version=version, env_steps=10 * version, params=bytes([version] * 4)
            )
            self.send(pb.WeightsReply(snapshot=snapshot).SerializeToString())

    async def serve(self) -> AsyncIterator[bytes]:
        """Runs on the loop."""
        try:
            while (reply := await self._outgoing.get()) is not None:
                if isinstance(reply, errors.ShoalError):
                    raise reply
                yield reply
        finally:
            self.over.set()


class Scripted:
    """A Learner service whose Weights calls are handed to the test."""

    def __init__(self) -> None:
        self._streams: queue.Queue[Stream] = queue.Queue()

    def next(self) -> Stream:
        """The next Weights call."""
        return self._streams.get(timeout=DEADLINE_S)

    async def Weights(self, request: pb.WeightsRequest, context: Any) -> AsyncIterator[bytes]:
        stream = Stream(request)
        self._streams.put(stream)
        await context.send_initial_metadata(())
        async for reply in stream.serve():
            yield reply

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:
        return pb.JoinReply()

    async def Info(self, request: pb.LearnerInfoRequest, context: Any) -> pb.LearnerInfoReply:
        return pb.LearnerInfoReply()


@pytest.fixture
def server(serving: Serving) -> Scripted:
    scripted = Scripted()
    serving.start(LEARNER, scripted)
    return scripted


Receive = Callable[..., WeightsReceiver]


@pytest.fixture
def receive(serving: Serving) -> Iterator[Receive]:
    receivers: list[WeightsReceiver] = []

    def make(*, from_version: int = 0, every: bool = True, **more: Any) -> WeightsReceiver:
        client = rpc.Client(serving.channel(), LEARNER, "the test's learner")
        receivers.append(
            WeightsReceiver(
                client,
                SLOT,
                INCARNATION,
                LEARNER_INCARNATION,
                from_version=from_version,
                every=every,
                patience_s=more.pop("patience_s", 30.0),
                **more,
            )
        )
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.close()
        assert not receiver._thread.is_alive()


def version(receiver: WeightsReceiver, wanted: int | None) -> int:
    """The version taken; -1 where the run is over."""
    snapshot = receiver.take(wanted, DEADLINE_S)
    return -1 if snapshot is None else snapshot.version


def pausing(receiver: WeightsReceiver) -> bool:
    """Whether a thread waits inside the receiver (its own, between two attempts, when nobody takes)."""
    waiters: Any = getattr(receiver._changed, "_waiters")  # noqa: B009
    return bool(waiters)


def test_every_version_is_taken_in_order_and_may_be_taken_twice(server: Scripted, receive: Receive) -> None:
    receiver = receive(from_version=4)
    stream = server.next()
    request = stream.request
    assert (request.protocol, request.slot, request.incarnation) == (rpc.PROTOCOL, SLOT, INCARNATION)
    assert (request.from_version, request.every) == (4, True)
    stream.publish(4, 5, 6)
    assert [version(receiver, wanted) for wanted in (4, 4, 5, 6, 6)] == [4, 4, 5, 6, 6]


def test_weights_and_version_arrive_together_as_the_publisher_encodes_them(server: Scripted, receive: Receive) -> None:
    receiver = receive()
    server.next().send(encode(LEARNER_INCARNATION, 0, 123, np.arange(3, dtype=np.float32), "m"))
    snapshot = receiver.take(0, DEADLINE_S)
    assert snapshot is not None
    assert (snapshot.version, snapshot.env_steps, snapshot.manifest) == (0, 123, "m")
    assert np.frombuffer(snapshot.params, np.float32).tolist() == [0.0, 1.0, 2.0]


def test_a_version_that_is_not_there_yet_is_waited_for(server: Scripted, receive: Receive, threads: Threads) -> None:
    receiver = receive()
    stream = server.next()
    stream.publish(0)
    assert version(receiver, 0) == 0
    waiting = threads.start(version, receiver, 1)
    wait_until(lambda: pausing(receiver), "take waits")
    assert not waiting.done()
    stream.publish(1)
    assert waiting.result(DEADLINE_S) == 1


def test_older_versions_are_let_go(server: Scripted, receive: Receive) -> None:
    receiver = receive()
    server.next().publish(0, 1, 2)
    assert version(receiver, 2) == 2
    with pytest.raises(errors.WeightsRegressedError, match="version 1 was wanted, the oldest one here is 2"):
        receiver.take(1, DEADLINE_S)


def test_async_takes_the_newest_and_never_waits_for_a_newer_one(server: Scripted, receive: Receive) -> None:
    receiver = receive(every=False)
    stream = server.next()
    assert stream.request.every is False
    stream.publish(3, 7, 9)
    wait_until(lambda: receiver._next_version == 10, "the newest is here")
    assert len(receiver._snapshots) == 1  # what nobody took is not kept
    assert [version(receiver, None), version(receiver, None)] == [9, 9]


def test_a_wait_has_a_deadline(server: Scripted, receive: Receive) -> None:
    receiver = receive()
    with pytest.raises(errors.DeadlineError, match=r"published no weights of version 3 for 0.01 s"):
        receiver.take(3, 0.01)
    with pytest.raises(errors.DeadlineError, match="any version"):
        receiver.take(None, 0.01)


def test_the_end_of_the_run_wakes_whoever_waits(server: Scripted, receive: Receive, threads: Threads) -> None:
    called = threading.Event()
    receiver = receive(on_end=called.set)
    waiting = threads.start(version, receiver, 0)
    wait_until(lambda: pausing(receiver), "take waits")
    assert not called.is_set()
    server.next().send(pb.WeightsReply(finished="budget").SerializeToString())
    assert waiting.result(DEADLINE_S) == -1
    assert called.wait(DEADLINE_S)
    assert receiver.finished == "budget"
    assert receiver.take(0, DEADLINE_S) is None


def test_close_wakes_whoever_waits_and_ends_the_lease(server: Scripted, receive: Receive, threads: Threads) -> None:
    receiver = receive()
    stream = server.next()
    waiting = threads.start(version, receiver, 0)
    wait_until(lambda: pausing(receiver), "take waits")
    receiver.close()
    assert waiting.result(DEADLINE_S) == -1
    assert stream.over.wait(DEADLINE_S)
    assert receiver.finished is None


def test_close_between_two_attempts_ends_the_thread(receive: Receive) -> None:
    receiver = receive()
    wait_until(lambda: pausing(receiver), "the pause after a failed attempt")
    receiver.close()
    assert not receiver._thread.is_alive()


def test_a_broken_stream_goes_on_from_the_next_version(serving: Serving, server: Scripted, receive: Receive) -> None:
    receiver = receive()
    server.next().publish(0, 1)
    assert version(receiver, 1) == 1
    serving.stop()
    restarted = Scripted()
    serving.start(LEARNER, restarted)
    stream = restarted.next()
    assert stream.request.from_version == 2
    assert version(receiver, 1) == 1  # what is here stays
    stream.publish(2)
    assert version(receiver, 2) == 2


@pytest.mark.parametrize("retried", [errors.UnavailableError, errors.DeadlineError])
def test_errors_that_time_may_mend_are_retried(
    retried: type[errors.ShoalError], server: Scripted, receive: Receive
) -> None:
    receiver = receive()
    server.next().send(retried("not now"))
    server.next().send(None)
    server.next().publish(0)
    assert version(receiver, 0) == 0


@pytest.mark.parametrize("kind", [errors.ItemRejectedError, errors.PeerIncompatibleError])
def test_other_errors_end_it(kind: type[errors.ShoalError], server: Scripted, receive: Receive) -> None:
    receiver = receive()
    stream = server.next()
    stream.publish(0)
    assert version(receiver, 0) == 0
    stream.send(kind("join anew"))
    with pytest.raises(kind, match="join anew"):
        receiver.take(1, DEADLINE_S)
    assert receiver.finished is None


def test_another_learner_at_the_address_is_noticed(server: Scripted, receive: Receive) -> None:
    receiver = receive()
    server.next().publish(0, learner=1)
    with pytest.raises(errors.WeightsRegressedError, match="another learner answers"):
        receiver.take(0, DEADLINE_S)


def test_a_version_that_goes_back_is_noticed(server: Scripted, receive: Receive) -> None:
    receiver = receive(from_version=5)
    server.next().publish(5, 5)
    with pytest.raises(errors.WeightsRegressedError, match="version 5 came where 6 or later was due"):
        receiver.take(6, DEADLINE_S)


def test_patience_ends_when_nobody_answers(receive: Receive) -> None:
    clock, called = FakeClock(), threading.Event()
    receiver = receive(clock=clock, on_end=called.set)
    wait_until(lambda: pausing(receiver), "the first attempt failed")
    clock.advance(29.0)
    with pytest.raises(errors.DeadlineError):
        receiver.take(0, 0.1)
    assert not called.is_set()
    assert receiver.error is None
    clock.advance(2.0)
    with pytest.raises(errors.UnavailableError, match="the test's learner cannot be reached"):
        receiver.take(0, DEADLINE_S)
    assert called.wait(DEADLINE_S)  # who waits for acks, not for weights, is told this way
    assert isinstance(receiver.error, errors.UnavailableError)


def test_patience_starts_when_a_stream_that_stood_breaks(serving: Serving, server: Scripted, receive: Receive) -> None:
    clock = FakeClock()
    receiver = receive(clock=clock)
    server.next()
    wait_until(lambda: receiver._stood, "the stream stands")
    clock.advance(1000.0)  # a long round: the stream stands, no version comes
    serving.stop()
    restarted = Scripted()
    serving.start(LEARNER, restarted)
    restarted.next().publish(0)
    assert version(receiver, 0) == 0


def settled(number: int, rounds: dict[int, int]) -> bytes:
    return encode(LEARNER_INCARNATION, number, 0, np.zeros(1, np.float32), "m", rounds)


def test_weights_that_must_contain_ones_own_round_are_waited_for(
    server: Scripted, receive: Receive, threads: Threads
) -> None:
    receiver = receive(every=False)
    stream = server.next()
    stream.send(settled(0, {}))
    assert version(receiver, None) == 0
    waiting = threads.start(receiver.take, None, DEADLINE_S, 7)
    wait_until(lambda: pausing(receiver), "take waits")
    stream.send(settled(1, {SLOT: 6, SLOT + 1: 9}))  # another's round 9, one's own 6
    wait_until(lambda: receiver._next_version == 2, "version 1 came")
    assert not waiting.done()
    stream.send(settled(2, {SLOT: 7}))
    assert waiting.result(DEADLINE_S).version == 2
    taken = receiver.take(None, DEADLINE_S, 7)  # and no longer
    assert taken is not None
    assert taken.version == 2


def test_what_broke_elsewhere_wakes_who_waits_for_weights(server: Scripted, receive: Receive, threads: Threads) -> None:
    receiver = receive()
    server.next()
    waiting = threads.start(receiver.take, 0, DEADLINE_S)
    wait_until(lambda: pausing(receiver), "take waits")
    receiver.fail(errors.ItemRejectedError("no such column"))
    with pytest.raises(errors.ItemRejectedError, match="no such column"):
        waiting.result(DEADLINE_S)
    threads._started.clear()  # its error was looked at


def test_nothing_fails_once_the_run_is_over(server: Scripted, receive: Receive) -> None:
    receiver = receive()
    server.next().send(pb.WeightsReply(finished="budget").SerializeToString())
    assert version(receiver, 0) == -1
    receiver.fail(errors.ItemRejectedError("too late"))
    assert version(receiver, 0) == -1
