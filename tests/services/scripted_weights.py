"""A Learner service whose Weights calls do what the test says, and receivers that listen to it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from actors.weights import WeightsReceiver
from core import errors, rpc
from protos import learner_pb2 as pb
from tests.services.serving import DEADLINE_S, Serving

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
        while (reply := await self._outgoing.get()) is not None:
            if isinstance(reply, errors.ShoalError):
                raise reply
            yield reply


class Scripted:
    """A Learner service whose Weights calls are handed to the test."""

    def __init__(self) -> None:
        self._streams: queue.Queue[Stream] = queue.Queue()

    def next(self) -> Stream:
        """The next Weights call."""
        return self._streams.get(timeout=DEADLINE_S)

    async def Weights(self, request: pb.WeightsRequest, context: Any) -> AsyncIterator[bytes]:
        stream = Stream(request)
        try:  # the call may be over before the metadata are out
            self._streams.put(stream)
            await context.send_initial_metadata(())
            async for reply in stream.serve():
                yield reply
        finally:
            stream.over.set()

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:
        return pb.JoinReply()

    async def Info(self, request: pb.LearnerInfoRequest, context: Any) -> pb.LearnerInfoReply:
        return pb.LearnerInfoReply()


@pytest.fixture
def learner(serving: Serving) -> Scripted:
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
