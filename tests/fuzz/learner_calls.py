"""Calls of the Learner service without a network, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from google.protobuf.message import DecodeError

from core.clock import SystemClock
from core.errors import ShoalError
from core.rpc import PROTOCOL
from core.runspec import RunSpec
from learner.bottleneck import Verdict
from learner.coordinator import Coordinator
from learner.rounds import Rounds
from learner.service import LearnerService
from protos import learner_pb2 as pb
from replay_server.hosting import Hosted
from replay_server.queue import RoundQueue
from tests.fuzz.calls import SIGNATURE

PATIENCE_S = 0.005
MOST_ACTORS = 16
KINDS: dict[str, Any] = {"Join": pb.JoinRequest, "Weights": pb.WeightsRequest, "Info": pb.LearnerInfoRequest}
RUN = RunSpec(
    algorithm="ppo",
    settings={"epochs": 3},
    env="CartPole-v1",
    env_kwargs={},
    env_wrappers=[],
    imports=[],
    envs_per_actor=2,
    slots=1,
    seed=1,
    budget_env_steps=1000,
    lag=1,
    first_version=0,
    restart_every_rounds=0,
    table="experience",
    manifest="m",
    window_chunks=8,
    max_chunk_bytes=1 << 20,
    max_message_bytes=1 << 24,
    keepalive_s=10.0,
    learner_patience_s=60.0,
    step_deadline_s=None,
)


class Context:
    """Of a call."""

    def peer(self) -> str:
        return "fuzz"

    async def send_initial_metadata(self, metadata: Any) -> None:
        """There is nobody to send it to."""


class LearnerTarget:
    """A learner's service with one actor and one version, to throw bytes at."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        clock = SystemClock()
        hosted = Hosted("experience", RoundQueue(SIGNATURE, 1), clock)
        self.coordinator = Coordinator(Rounds(1, 10.0, 1, 0), hosted, clock)
        self.coordinator.why_refused = lambda actors: "too many" if actors > MOST_ACTORS else None
        self.service = LearnerService(
            self.coordinator, RUN, 7, lambda peer: "", lambda: ({"env_steps": 1.0}, Verdict("learner", ""))
        )
        self.call("Join", join())
        self.coordinator.publish(0, b"weights")

    def call(self, name: str, request: bytes) -> ShoalError | None:
        """The error of Shoal's that it ended with. Bytes that are no message never come to the service."""
        try:
            message = KINDS[name].FromString(request)
        except DecodeError:
            return None
        return self._loop.run_until_complete(self._call(name, message))

    async def _call(self, name: str, message: Any) -> ShoalError | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                if name != "Weights":
                    await getattr(self.service, name)(message, Context())
                    return None
                async with contextlib.aclosing(self.service.Weights(message, Context())) as versions:  # type: ignore[type-var]
                    async for _ in versions:
                        pass
        except TimeoutError:
            pass
        except ShoalError as error:
            return error
        return None

    def check(self) -> None:
        """Seats are bounded, every one has its own process, and the loop of ticks goes on."""
        self.coordinator.tick()
        actors = self.coordinator.actors
        assert len(actors) <= MOST_ACTORS
        assert all(slot == actor.slot for slot, actor in actors.items())
        lives = [actor.incarnation for actor in actors.values()]
        assert len(lives) == len(set(lives))

    def close(self) -> None:
        """End the service."""
        self.coordinator.finish("over")
        self.coordinator.close()
        self._loop.close()


def join(**changes: Any) -> bytes:
    """A process joins."""
    return pb.JoinRequest(
        **{"protocol": PROTOCOL, "incarnation": 5, "host": "h", "pid": 1, **changes}
    ).SerializeToString()


def weights(**changes: Any) -> bytes:
    """The actor wants weights."""
    return pb.WeightsRequest(**{"protocol": PROTOCOL, "incarnation": 5, **changes}).SerializeToString()
