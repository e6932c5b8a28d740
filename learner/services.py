"""The learner's services as the training thread sees them: start, publish, fetch, close.

Everything inside runs on the loop's thread; this class is the only door.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc.aio

from core import rpc_server
from core.clock import SystemClock
from core.config import Config
from core.errors import ConfigError
from core.runspec import RunSpec
from core.security import OPEN, Security
from core.specs import Signature
from core.types import Array, Episodes, Lag, Plan, Queue, Replay
from learner.background import LoopThread
from learner.bottleneck import Verdict
from learner.checkpoints import Start
from learner.coordinator import Coordinator
from learner.link import ReplayLink, definition_of, why_refused
from learner.pace import Drawing
from learner.publisher import encode
from learner.replay import AsyncFetch, LagFetch
from learner.rounds import Rounds
from learner.service import LearnerService
from learner.source import Fetch, QueueFetch
from learner.status import Status, Waiter
from protos import experience_pb2, learner_pb2
from replay_server.hosting import Hosted
from replay_server.queue import FifoQueue, RoundQueue
from replay_server.service import ExperienceService

TABLE = "experience"
TICK_S = 0.2
ASK_EVERY_S = 1.0
"""Between two questions to a replay server how its table is."""
STOP_GRACE_S = 0.5
START_TIMEOUT_S = 30.0
FIFO_BATCHES = 2


class Services:
    """Learner service, Experience service and the coordinator between them."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        signature: Signature,
        *,
        manifest: str,
        incarnation: int,
        start: Start,
        env_steps: int,
        restart_every_rounds: int,
        news: Callable[[], tuple[dict[str, float], Verdict]],
        sent: Callable[[int, float], None] = lambda nbytes, latency_s: None,
        security: Security = OPEN,
    ) -> None:
        self._security = security
        self._config, self._plan, self._signature = config, plan, signature
        self._manifest, self._incarnation, self._news = manifest, incarnation, news
        self._lag = plan.pace.rounds if isinstance(plan.pace, Lag) else None
        self._start_at, self._restart_every_rounds = start, restart_every_rounds
        self._loop = LoopThread()
        self._server: grpc.aio.Server | None = None
        self._replay_address: str | None = None
        self._link: ReplayLink | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._fetch: AsyncFetch | LagFetch | None = None
        self._told: tuple[dict[str, float], list[Waiter]] = ({}, [])  # by the replay server
        self._tasks: list[asyncio.Task[None]] = []
        self._experience = ExperienceService()
        max_staleness = None if isinstance(plan.pace, Lag) else plan.pace.max_staleness
        self._coordinator = Coordinator(
            Rounds(
                self._lag,
                config.faults.rejoin_grace_s,
                config.actors,
                start.version,
                first_async_round=env_steps,
                staged=isinstance(plan.table, Replay),
            ),
            self._host_queue(),
            SystemClock(),
            start_timeout_s=config.faults.start_timeout_s,
            items_per_batch=plan.table.items if isinstance(plan.table, Queue) else 1,
            max_staleness=max_staleness,
        )
        self._coordinator.publisher.on_sent = sent
        if isinstance(plan.table, Replay):
            self._definition = definition_of(
                *(TABLE, plan, plan.table, signature, config.actors, config.network.max_message_bytes),
                rounds_between=restart_every_rounds,
            )
            ConfigError.raise_if(filter(None, [why_refused(self._definition, config.actors, self._lag)]))
            self._coordinator.why_refused = partial(why_refused, self._definition, lag=self._lag)

    def start(self, addresses: Sequence[str], replay_address: str | None) -> list[str]:
        """Listen; returns the addresses with their real ports. Connects to a replay server where one is used."""
        self._replay_address, asked = replay_address, len(addresses)
        if isinstance(self._plan.table, Replay) and replay_address is None:
            # the way to the table of its own: an address of the network's may have a certificate with another name
            self._folder = tempfile.TemporaryDirectory(prefix="shoal-", ignore_cleanup_errors=True)
            addresses = [*addresses, f"unix:{self._folder.name}/own"]
        bound = self._loop.call(self._start(addresses), START_TIMEOUT_S)
        if isinstance(self._plan.table, Replay):
            at, start, me = replay_address or bound[-1], self._start_at, self._incarnation
            self._link = ReplayLink(at, self._config, self._definition, start, me)
            rounds = None if self._lag is None else self._coordinator.complete
            note = partial(self._loop.post, self._coordinator.note)
            self._fetch = self._link.fetch(self._plan.table, note, rounds)
            self._loop.post(self._replay_ready, self._link, self._fetch)
        return bound[:asked]

    async def _start(self, addresses: Sequence[str]) -> list[str]:
        network = self._config.network
        self._server = rpc_server.new_server(network.max_message_bytes, network.keepalive_s)
        service = LearnerService(
            *(self._coordinator, self._run_spec(), self._incarnation, self._experience_address),
            *(self._news, self._waiters, self._tables),
        )
        served: list[tuple[Any, object]] = [(learner_pb2, service), (experience_pb2, self._experience)]
        for module, servicer in served:
            (descriptor,) = module.DESCRIPTOR.services_by_name.values()
            rpc_server.add_service(self._server, descriptor, servicer, self._security, self._loop.fail)
        bound = [rpc_server.bind(self._server, address, self._security) for address in addresses]
        service.address, self._experience.addresses = bound[0], bound
        await self._server.start()
        self._tasks.append(asyncio.create_task(self._tick()))
        return bound

    def _replay_ready(self, link: ReplayLink, fetch: AsyncFetch | LagFetch) -> None:
        self._coordinator.on_complete = fetch.wake
        self._coordinator.table_made()
        self._tasks.append(asyncio.create_task(self._ask(link)))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._loop.guard(self._coordinator.tick)

    async def _ask(self, link: ReplayLink) -> None:
        """Have a thread ask the replay server, now and then, how the table is."""
        while True:
            self._told = await asyncio.get_running_loop().run_in_executor(None, link.ask)
            await asyncio.sleep(ASK_EVERY_S)

    def fetch(self) -> Fetch:
        """Where batches come from."""
        return self._fetch or QueueFetch(self._coordinator, self._loop)

    def publish(self, version: int, env_steps: int, params: Array, settled: Mapping[int, int] | None = None) -> None:
        """Encode a version here and hand it to the loop."""
        encoded = encode(self._incarnation, version, env_steps, params, self._manifest, settled)
        self._loop.post(self._coordinator.publish, version, encoded)

    def mark_reset_point(self, version: int, keep: Sequence[int] = ()) -> tuple[Drawing | None, bool]:
        """Before its version is published: where drawing stands, and whether the run can go on exactly from here.

        A replay table writes what it goes back to; one in memory only cannot. Without one there is nothing to draw.
        What was written for the versions to `keep` stays.
        """
        deterministic = self.status().deterministic
        if self._link is None or not isinstance(self._fetch, LagFetch):
            return None, deterministic
        kept = self._link.checkpoint(version, keep)
        return (self._fetch.drawing() if kept else None), kept and deterministic

    def finish(self, reason: str) -> None:
        """Tell the actors that the run is over."""
        self._loop.post(self._coordinator.finish, reason)

    def status(self) -> Status:
        """How actors and tables are, as of now. Raises what went wrong on the loop, if anything did."""
        if self._loop.error is not None:
            raise self._loop.error
        return self._loop.call(self._status(), START_TIMEOUT_S)

    async def _status(self) -> Status:
        rounds = self._coordinator.rounds
        went_back = isinstance(self._fetch, LagFetch) and self._fetch.went_back
        return Status(
            actors=len(self._coordinator.actors),
            replaced=rounds.status().replaced,
            deterministic=rounds.deterministic and not went_back and (self._link is None or self._link.exact),
            tables=self._tables(),
            waiters=tuple(self._waiters()),
            seated=self._coordinator.seated(),
        )

    def _tables(self) -> dict[str, dict[str, float]]:
        """The figures of the tables; on the loop's thread."""
        hosted = self._coordinator.hosted
        figures = hosted.table.figures() if hosted is not None else self._told[0]
        return {TABLE: figures} if figures else {}

    def _waiters(self) -> list[Waiter]:
        """Who waits for what; on the loop's thread."""
        hosted, owed = self._coordinator.hosted, self._coordinator.why_it_waits()
        waiters = list(self._told[1])
        if hosted is not None:
            waiters = [Waiter(TABLE, w.who, w.what, hosted.waited_s(w), w.why() or "") for w in hosted.waiters()]
        if owed is not None:
            waiters.insert(0, Waiter(TABLE, "the learner", *owed))
        for who, waited_s in self._coordinator.without_table():
            waiters.append(Waiter(TABLE, who, "the replay server", waited_s, self._why_no_table()))
        return waiters

    def _why_no_table(self) -> str:
        limit_s = self._config.faults.start_timeout_s
        return (
            f"the learner has not reached the one at {self._replay_address or 'its own address'}: start it, or correct "
            f"--replay-address; the run ends after {limit_s:g} s without it (faults.start_timeout_s)"
        )

    def close(self, *, abandon: bool = False) -> None:
        """Stop listening, wake everybody, end the loop. Whom it `abandon`s shall look for the next learner."""
        if self._fetch is not None:
            self._fetch.close()
        with contextlib.suppress(TimeoutError):
            self._loop.call(self._stop(abandon), 2 * STOP_GRACE_S + 1.0)
        if self._link is not None:
            self._link.close()
        self._loop.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _stop(self, abandon: bool) -> None:
        for task in self._tasks:
            task.cancel()
        if abandon and self._server is not None:  # before a table says that it is closed: all breaks, as by a kill
            await self._server.stop(0)
        self._coordinator.finish("the learner ended")
        self._coordinator.close()
        self._experience.close()
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)

    def _host_queue(self) -> Hosted[RoundQueue] | Hosted[FifoQueue] | None:
        plan = self._plan
        if not isinstance(plan.table, Queue):
            return None
        pad = isinstance(plan.collect, Episodes)
        if self._lag is not None:
            return self._experience.host(TABLE, RoundQueue(self._signature, self._lag, pad=pad), self._incarnation)
        capacity = FIFO_BATCHES * max(plan.table.items, self._config.actors)
        return self._experience.host(TABLE, FifoQueue(self._signature, capacity, pad=pad), self._incarnation)

    def _experience_address(self, peer: str) -> str:
        """Where an actor finds the table: a unix socket is of no use to one that came over TCP.

        ":PORT" is a port of the host at which the actor reached the learner.
        """
        if self._replay_address is None:
            return ""
        if self._replay_address.startswith("unix:") and not peer.startswith("unix:"):
            return f":{self._link.tcp_address.rpartition(':')[2] if self._link else ''}"
        return self._replay_address

    def _run_spec(self) -> RunSpec:
        config = self._config
        plain: dict[str, Any] = {
            "settings": dict(config.settings),
            "env_kwargs": dict(config.env_kwargs),
            "env_wrappers": list(config.env_wrappers),
            "imports": list(config.imports),
        }
        return RunSpec(
            algorithm=config.algorithm,
            env=config.env,
            envs_per_actor=config.envs_per_actor,
            slots=config.actors,
            seed=config.seed,
            budget_env_steps=config.env_steps,
            lag=self._lag,
            first_version=self._start_at.first_version,
            restart_every_rounds=self._restart_every_rounds,
            table=TABLE,
            manifest=self._manifest,
            window_chunks=config.network.window_chunks,
            max_chunk_bytes=config.network.max_chunk_bytes,
            max_message_bytes=config.network.max_message_bytes,
            keepalive_s=config.network.keepalive_s,
            learner_patience_s=config.faults.learner_patience_s,
            step_deadline_s=config.faults.step_deadline_s,
            **plain,
        )
