"""actors/weights.py when streams break, servers change or nobody answers."""

from __future__ import annotations

import threading

import pytest

from core import errors
from core.clock import FakeClock
from tests.services.scripted_weights import (
    LEARNER,
    Receive,
    Scripted,
    pausing,
    version,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until


def test_a_broken_stream_goes_on_from_the_next_version(serving: Serving, learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    learner.next().publish(0, 1)
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
    retried: type[errors.ShoalError], learner: Scripted, receive: Receive
) -> None:
    receiver = receive()
    learner.next().send(retried("not now"))
    learner.next().send(None)
    learner.next().publish(0)
    assert version(receiver, 0) == 0


@pytest.mark.parametrize("kind", [errors.ItemRejectedError, errors.PeerIncompatibleError])
def test_other_errors_end_it(kind: type[errors.ShoalError], learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    stream = learner.next()
    stream.publish(0)
    assert version(receiver, 0) == 0
    stream.send(kind("join anew"))
    with pytest.raises(kind, match="join anew"):
        receiver.take(1, DEADLINE_S)
    assert receiver.finished is None


def test_another_learner_at_the_address_is_noticed(learner: Scripted, receive: Receive) -> None:
    receiver = receive()
    learner.next().publish(0, learner=1)
    with pytest.raises(errors.SeatLostError, match="another learner answers"):
        receiver.take(0, DEADLINE_S)


def test_a_version_that_goes_back_is_noticed(learner: Scripted, receive: Receive) -> None:
    receiver = receive(from_version=5)
    learner.next().publish(5, 5)
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


def test_patience_starts_when_a_stream_that_stood_breaks(serving: Serving, learner: Scripted, receive: Receive) -> None:
    clock = FakeClock()
    receiver = receive(clock=clock)
    learner.next()
    wait_until(lambda: receiver._stood, "the stream stands")
    clock.advance(1000.0)  # a long round: the stream stands, no version comes
    serving.stop()
    restarted = Scripted()
    serving.start(LEARNER, restarted)
    restarted.next().publish(0)
    assert version(receiver, 0) == 0
