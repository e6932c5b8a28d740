"""Weights to subscribers: a version is encoded once and the same bytes go to all. Runs on the loop's thread.

Version and weights are one message, so nobody sees one without the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping

from core.types import Array
from protos import learner_pb2 as pb


def encode(
    learner_incarnation: int,
    version: int,
    env_steps: int,
    params: Array,
    manifest: str,
    settled: Mapping[int, int] | None = None,
) -> bytes:
    """One version as a WeightsReply, ready for the wire. Called by the training thread.

    `settled`: slot -> its newest round that these params contain, or that was dropped.
    """
    snapshot = pb.Snapshot(
        learner_incarnation=learner_incarnation,
        version=version,
        env_steps=env_steps,
        params=params.tobytes(),
        manifest=manifest,
        settled=settled,
    )
    return pb.WeightsReply(snapshot=snapshot).SerializeToString()


class Publisher:
    """Keeps the newest `keep` versions and wakes subscribers.

    `on_sent(nbytes, latency_s)` is told of every version that a subscriber has taken: how long after its publication,
    or after the subscription where that was later.
    """

    def __init__(self, keep: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._kept: deque[tuple[int, bytes, float]] = deque(maxlen=keep)
        self._now_s = now_s
        self.on_sent: Callable[[int, float], None] = lambda nbytes, latency_s: None
        self._finished: str | None = None
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """The newest version, -1 before the first."""
        return self._kept[-1][0] if self._kept else -1

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self._finished is not None

    def publish(self, version: int, encoded: bytes) -> None:
        """Make a version the newest."""
        self._kept.append((version, encoded, self._now_s()))
        self.wake()

    def finish(self, reason: str) -> None:
        """Tell every subscriber, present and future, that the run is over; the first reason stays."""
        self._finished = self._finished or reason
        self.wake()

    def wake(self) -> None:
        """Have every subscriber look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def subscribe(
        self, from_version: int, every: bool, holds: Callable[[], bool] = lambda: True
    ) -> AsyncGenerator[bytes, None]:
        """Versions from `from_version` on, each (in order) or the newest; ends after telling that the run is over.

        And as soon as `holds()` is False.
        """
        subscribed_s = self._now_s()
        while self._finished is None:
            if not holds():
                return
            due = [kept for kept in self._kept if kept[0] >= from_version]
            if not due:
                await self._changed.wait()
                continue
            version, encoded, published_s = due[0] if every else due[-1]
            from_version = version + 1
            yield encoded  # comes back when the stream has taken it
            self.on_sent(len(encoded), self._now_s() - max(published_s, subscribed_s))
        yield pb.WeightsReply(finished=self._finished).SerializeToString()
