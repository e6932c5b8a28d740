"""learner/publisher.py: every version in order or the newest, encoded once, told when the run is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np

from core.clock import FakeClock
from learner.publisher import Publisher, encode
from protos import learner_pb2 as pb


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on a loop of its own, with a deadline."""

    async def body() -> None:
        async with asyncio.timeout(10.0):
            await test

    asyncio.run(body())


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Subscriber:
    """Collects what it is sent."""

    def __init__(self, publisher: Publisher, from_version: int = 0, every: bool = True) -> None:
        self.received: list[bytes] = []
        self._stream = publisher.subscribe(from_version, every)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for encoded in self._stream:
            self.received.append(encoded)

    async def leave(self) -> None:
        """As a call that is cancelled."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self._stream.aclose()


def name(version: int) -> bytes:
    return f"v{version}".encode()


def publish(publisher: Publisher, *versions: int) -> None:
    for version in versions:
        publisher.publish(version, name(version))


def test_an_encoded_version_has_all_that_an_actor_needs() -> None:
    params = np.arange(5, dtype=np.float32)
    snapshot = pb.WeightsReply.FromString(encode(9, 4, 1234, params, "manifest")).snapshot
    assert (snapshot.learner_incarnation, snapshot.version, snapshot.env_steps) == (9, 4, 1234)
    assert snapshot.manifest == "manifest"
    np.testing.assert_array_equal(np.frombuffer(snapshot.params, np.float32), params)


def test_every_version_comes_in_order_to_everybody_as_the_same_bytes() -> None:
    async def test() -> None:
        publisher = Publisher(keep=3)
        assert publisher.version == -1
        subscribers = [Subscriber(publisher), Subscriber(publisher)]
        await settle()
        publish(publisher, 0)
        await settle()
        publish(publisher, 1, 2)  # two before anybody could look
        await settle()
        assert publisher.version == 2
        first, second = (subscriber.received for subscriber in subscribers)
        assert first == [name(0), name(1), name(2)]
        assert all(a is b for a, b in zip(first, second, strict=True))
        for subscriber in subscribers:
            await subscriber.leave()

    run(test())


def test_in_async_mode_only_the_newest_comes() -> None:
    async def test() -> None:
        publisher = Publisher(keep=3)
        subscriber = Subscriber(publisher, every=False)
        await settle()
        publish(publisher, 0, 1, 2)
        await settle()
        publish(publisher, 3)
        await settle()
        assert subscriber.received == [name(2), name(3)]
        await subscriber.leave()

    run(test())


def test_who_comes_late_gets_what_is_kept_from_where_it_asks() -> None:
    async def test() -> None:
        publisher = Publisher(keep=2)
        publish(publisher, 0, 1, 2, 3)
        subscribers = [Subscriber(publisher, from_version=n) for n in (0, 3, 5)]
        await settle()
        assert [s.received for s in subscribers] == [[name(2), name(3)], [name(3)], []]
        publish(publisher, 4, 5)
        await settle()
        assert [s.received[-1] for s in subscribers] == [name(5)] * 3
        assert len(subscribers[2].received) == 1
        for subscriber in subscribers:
            await subscriber.leave()

    run(test())


def test_it_is_told_what_was_sent_and_how_long_after_it_was_published() -> None:
    async def test() -> None:
        clock, sent = FakeClock(), []
        publisher = Publisher(keep=2, now_s=clock.now_s)
        publisher.on_sent = lambda nbytes, latency_s: sent.append((nbytes, latency_s))
        publish(publisher, 0)
        clock.advance(100.0)
        stream = publisher.subscribe(0, every=True)  # long after version 0: that is no delay
        await anext(stream)
        assert sent == []
        clock.advance(2.0)
        publish(publisher, 1)
        clock.advance(0.5)
        await anext(stream)  # the first was taken when the second is asked for
        assert sent == [(len(name(0)), 2.5)]
        publish(publisher, 2)
        clock.advance(0.25)
        await anext(stream)
        assert sent[1:] == [(len(name(1)), 0.75)]
        await stream.aclose()
        assert len(sent) == 2

    run(test())


def test_the_end_is_told_to_present_and_future_subscribers_and_the_first_reason_stays() -> None:
    async def test() -> None:
        publisher = Publisher(keep=1)
        present = Subscriber(publisher)
        publish(publisher, 0)
        await settle()
        assert len(present.received) == 1
        publisher.finish("budget")
        publisher.finish("the learner ended")
        future = Subscriber(publisher)
        await asyncio.gather(present.task, future.task)
        assert publisher.finished
        assert present.received[0] == name(0)
        ends = [pb.WeightsReply.FromString(s.received[-1]).finished for s in (present, future)]
        assert ends == ["budget", "budget"]
        assert len(future.received) == 1

    run(test())


def test_no_version_is_missed_whenever_it_comes(rng: np.random.Generator) -> None:
    async def test() -> None:
        publisher = Publisher(keep=5)
        subscribers = [Subscriber(publisher) for _ in range(3)]
        for version in range(100):
            while min(len(s.received) for s in subscribers) < version - 2:
                await asyncio.sleep(0)
            publish(publisher, version)
            for _ in range(int(rng.integers(0, 3))):
                await asyncio.sleep(0)
        await settle()
        assert [s.received for s in subscribers] == [[name(v) for v in range(100)]] * 3
        for subscriber in subscribers:
            await subscriber.leave()

    run(test())
