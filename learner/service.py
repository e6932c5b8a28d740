"""The Learner service: Join, Weights, Info. Runs on the event loop; all state is the coordinator's."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from core import rpc
from core.errors import SeatLostError, UnavailableError
from core.runspec import RunSpec
from learner.bottleneck import Verdict
from learner.coordinator import Coordinator
from learner.status import Waiter
from protos import learner_pb2 as pb

logger = logging.getLogger(__name__)
MOST_STREAMS_OF_SEAT = 4
"""The newest is served; older ones of broken connections may not have ended yet."""


class LearnerService:
    """Answers actors and people. `experience_address(peer)` says where this peer finds the replay server."""

    def __init__(
        self,
        coordinator: Coordinator,
        run: RunSpec,
        learner_incarnation: int,
        experience_address: Callable[[str], str],
        news: Callable[[], tuple[dict[str, float], Verdict]],
        waiters: Callable[[], Sequence[Waiter]] = list,
        tables: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    ) -> None:
        self._coordinator, self._run, self._packed_run = coordinator, run, run.pack()
        self._learner_incarnation = learner_incarnation
        self._experience_address, self._news = experience_address, news
        self._waiters, self._tables = waiters, tables
        self.address = ""
        self._streams = Counter[int]()  # by slot

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:
        """A process gets a seat and is told everything."""
        rpc.check_protocol(request.protocol, f"the actor on {request.host} (pid {request.pid})")
        await self._coordinator.until_table(f"the actor on {request.host} (pid {request.pid})")
        wanted = request.wanted_slot if request.HasField("wanted_slot") else None
        seat = self._coordinator.join(request.incarnation, request.host, request.pid, wanted)
        return pb.JoinReply(
            protocol=rpc.PROTOCOL,
            learner_incarnation=self._learner_incarnation,
            slot=seat.slot,
            first_round=seat.first_round,
            experience_address=self._experience_address(context.peer()),
            run=self._packed_run,
        )

    async def Weights(self, request: pb.WeightsRequest, context: Any) -> AsyncIterator[bytes]:
        """Versions as they are published; the stream is the actor's lease."""
        rpc.check_protocol(request.protocol, f"actor {request.slot}")
        actor = self._coordinator.actors.get(request.slot)
        if actor is None or actor.incarnation != request.incarnation:
            raise SeatLostError(f"slot {request.slot} is another process's by now, or another learner's: join anew")
        if self._streams[request.slot] >= MOST_STREAMS_OF_SEAT:
            raise UnavailableError(f"slot {request.slot} has {MOST_STREAMS_OF_SEAT} streams of weights: end one")
        lease = self._coordinator.lease(request.slot, request.incarnation)
        self._streams[request.slot] += 1
        try:
            await context.send_initial_metadata(())  # tells the actor that the stream stands
            await self._coordinator.started.wait()
            holds = partial(self._coordinator.holds, request.slot, request.incarnation, lease)
            versions = self._coordinator.publisher.subscribe(request.from_version, request.every, holds)
            async with contextlib.aclosing(versions):
                async for encoded in versions:
                    yield encoded
        finally:
            self._streams[request.slot] -= 1
            self._coordinator.lost(request.slot, request.incarnation, lease)

    async def Info(self, request: pb.LearnerInfoRequest, context: Any) -> pb.LearnerInfoReply:
        """How the run is doing, for `shoal status`."""
        figures, verdict = self._news()
        return pb.LearnerInfoReply(
            protocol=rpc.PROTOCOL,
            run=f"{self._run.algorithm} on {self._run.env}",
            address=self.address,
            figures=figures,
            bottleneck=verdict.part,
            advice=verdict.advice,
            actors=[pb.ActorInfo(**seated._asdict()) for seated in self._coordinator.seated()],
            waiters=[pb.TableWaiter(**waiter._asdict()) for waiter in self._waiters()],
            tables=[pb.LearnerTable(name=name, figures=figures) for name, figures in self._tables().items()],
            modules=self._run.modules,
        )
