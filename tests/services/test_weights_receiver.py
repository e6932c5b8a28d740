"""actors/weights.py against a real server that does what the test says: order, newest, the end."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from core import errors, rpc
from learner.publisher import encode
from protos import learner_pb2 as pb
from tests.conftest import Threads
from tests.services.scripted_weights import (
    INCARNATION,
    LEARNER_INCARNATION,
    SLOT,
    Receive,
    Scripted,
    pausing,
    version,
)
from tests.services.serving import DEADLINE_S, wait_until


def test_every_version_is_taken_in_order_and_may_be_taken_twice(learner: Scripted, receive: Receive) -> None:
    receiver = receive(from_version=4)
    stream = learner.next()
    request = stream.request
    assert (request.protocol, request.slot, request.incarnation) == (rpc.PROTOCOL, SLOT, INCARNATION)
    assert (request.from_version, request.every) == (4, True)
    stream.publish(4, 5, 6)
    assert [version(receiver, wanted) for wanted in (4, 4, 5, 6, 6)] == [4, 4, 5, 6, 6]


def test_weights_and_version_arrive_together_as_the_publisher_encodes_them(learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    learner.next().send(encode(LEARNER_INCARNATION, 0, 123, np.arange(3, dtype=np.float32), "m"))
    snapshot = receiver.take(0, DEADLINE_S)
    assert snapshot is not None
    assert (snapshot.version, snapshot.env_steps, snapshot.manifest) == (0, 123, "m")
    assert np.frombuffer(snapshot.params, np.float32).tolist() == [0.0, 1.0, 2.0]


def test_a_version_that_is_not_there_yet_is_waited_for(learner: Scripted, receive: Receive, threads: Threads) -> None:
    receiver = receive()
    stream = learner.next()
    stream.publish(0)
    assert version(receiver, 0) == 0
    waiting = threads.start(version, receiver, 1)
    wait_until(lambda: pausing(receiver), "take waits")
    assert not waiting.done()
    stream.publish(1)
    assert waiting.result(DEADLINE_S) == 1


def test_older_versions_are_let_go(learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    learner.next().publish(0, 1, 2)
    assert version(receiver, 2) == 2
    with pytest.raises(errors.WeightsRegressedError, match="version 1 was wanted, the oldest one here is 2"):
        receiver.take(1, DEADLINE_S)


def test_async_takes_the_newest_and_never_waits_for_a_newer_one(learner: Scripted, receive: Receive) -> None:
    receiver = receive(every=False)
    stream = learner.next()
    assert stream.request.every is False
    stream.publish(3, 7, 9)
    wait_until(lambda: receiver._next_version == 10, "the newest is here")
    assert len(receiver._snapshots) == 1  # what nobody took is not kept
    assert [version(receiver, None), version(receiver, None)] == [9, 9]


def test_a_wait_has_a_deadline(learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    with pytest.raises(errors.DeadlineError, match=r"published no weights of version 3 for 0.01 s"):
        receiver.take(3, 0.01)
    with pytest.raises(errors.DeadlineError, match="any version"):
        receiver.take(None, 0.01)


def test_the_end_of_the_run_wakes_whoever_waits(learner: Scripted, receive: Receive, threads: Threads) -> None:
    called = threading.Event()
    receiver = receive(on_end=called.set)
    waiting = threads.start(version, receiver, 0)
    wait_until(lambda: pausing(receiver), "take waits")
    assert not called.is_set()
    learner.next().send(pb.WeightsReply(finished="budget").SerializeToString())
    assert waiting.result(DEADLINE_S) == -1
    assert called.wait(DEADLINE_S)
    assert receiver.finished == "budget"
    assert receiver.take(0, DEADLINE_S) is None


def test_close_wakes_whoever_waits_and_ends_the_lease(learner: Scripted, receive: Receive, threads: Threads) -> None:
    receiver = receive()
    stream = learner.next()
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


def settled(number: int, rounds: dict[int, int]) -> bytes:
    return encode(LEARNER_INCARNATION, number, 0, np.zeros(1, np.float32), "m", rounds)


def test_weights_that_must_contain_ones_own_round_are_waited_for(
    learner: Scripted, receive: Receive, threads: Threads
) -> None:
    receiver = receive(every=False)
    stream = learner.next()
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


def test_what_broke_elsewhere_wakes_who_waits_for_weights(
    learner: Scripted, receive: Receive, threads: Threads
) -> None:
    receiver = receive()
    learner.next()
    waiting = threads.start(receiver.take, 0, DEADLINE_S)
    wait_until(lambda: pausing(receiver), "take waits")
    receiver.fail(errors.ItemRejectedError("no such column"))
    with pytest.raises(errors.ItemRejectedError, match="no such column"):
        waiting.result(DEADLINE_S)
    threads._started.clear()  # its error was looked at


def test_nothing_fails_once_the_run_is_over(learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    learner.next().send(pb.WeightsReply(finished="budget").SerializeToString())
    assert version(receiver, 0) == -1
    receiver.fail(errors.ItemRejectedError("too late"))
    assert version(receiver, 0) == -1
