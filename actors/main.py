"""An actor's process: join, then unroll after unroll until the learner says that the run is over.

It is told everything by the learner; the address is all it needs. One thread acts; gRPC's threads and two of ours
(core/stream.py, actors/weights.py) send and receive.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
import traceback
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from actors.exporter import Exporter
from actors.replayer import Replayer
from actors.unroller import Unroller
from actors.weights import WeightsReceiver, params_of
from core import envs as vector
from core import rpc
from core.algorithms import make
from core.compression import crosses_network
from core.errors import (
    ConfigError,
    DeadlineError,
    EnvironmentFailedError,
    SeatLostError,
    TableClosedError,
    UnavailableError,
    WeightsCorruptError,
)
from core.plugins import import_modules
from core.rl.optim import flatten
from core.runspec import RunSpec
from core.security import Security, from_environment, is_loopback
from core.stream import InsertStream
from core.types import Async, Columns, Recorded, Task, UnrollHeader
from core.watchdog import Busy, watched
from protos import learner_pb2 as pb

JOIN_TIMEOUT_S = 60.0
REJOIN_PAUSE_S = 0.2
"""So that nobody is asked without end where seats are lost as soon as they are given."""
logger = logging.getLogger(__name__)
Reply = TypeVar("Reply", pb.JoinReply, pb.LearnerInfoReply)


def run(
    learner_address: str,
    wanted_slot: int | None = None,
    allowed: Sequence[str] = (),
    exporter: Exporter | None = None,
) -> int:
    """Act for the learner at `learner_address` until the run is over. Returns the exit code; raises ShoalError.

    `wanted_slot` is asked for, not insisted on: a launcher's actor keeps its slot through restarts. Where another
    learner of the run takes over, or the slot was given away, the process joins again and begins anew. `allowed` are
    modules that it may be told to import over a connection that does not prove who the learner is.
    """
    import torch

    exporter = exporter or Exporter(None)
    torch.set_num_threads(1)
    with rpc.open_channel(learner_address, max_message_bytes=-1) as channel:  # weights are as large as they are
        client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Learner"], f"the learner at {learner_address}")
        while True:
            incarnation = secrets.randbits(63)
            _look_at_code(client, learner_address, allowed)
            joined = _join(client, learner_address, incarnation, wanted_slot)
            check_code(RunSpec.unpack(joined.run).modules, learner_address, from_environment(), allowed)
            print(f"joined {learner_address} as slot {joined.slot}, first round {joined.first_round}", flush=True)
            actor = Actor(client, learner_address, incarnation, joined, exporter)
            try:
                finished = actor.run()
                break
            except SeatLostError as error:
                logger.warning("slot %d: %s; joining again", joined.slot, error)
                exporter.left(str(error))
                wanted_slot = joined.slot
                time.sleep(REJOIN_PAUSE_S)
            except EnvironmentFailedError as error:
                traceback.print_exception(error)
                raise
            finally:
                actor.close()
    print(f"the run is over: {finished}", flush=True)
    return 0


def _look_at_code(client: rpc.Client, address: str, allowed: Sequence[str]) -> None:
    """Refuse before joining what `check_code` would refuse afterwards: a round would wait for a seat that was given."""
    security = from_environment()
    if not _is_known(address, security):
        info = _ask(client, address, "Info", pb.LearnerInfoRequest(), pb.LearnerInfoReply)
        check_code(info.modules, address, security, allowed)


def _is_known(address: str, security: Security) -> bool:
    """Whether something proves who the learner is: it is on this machine, or has a certificate."""
    return is_loopback(address) or (security.tls is not None and security.tls.ca is not None)


def check_code(modules: Sequence[str], address: str, security: Security, allowed: Sequence[str]) -> None:
    """Modules are imported for a learner on this machine, or one with a certificate; else only those `allowed`.

    Raises ConfigError.
    """
    unknown = [] if _is_known(address, security) else sorted(set(modules) - set(allowed))
    if unknown:
        flags = " ".join(f"--import {name}" for name in unknown)
        raise ConfigError(
            f"the learner at {address} wants {', '.join(unknown)} to be imported, and nothing proves that it is the "
            f"one that you mean: give this actor {flags}, or use TLS (--tls-ca)"
        )


def _join(client: rpc.Client, address: str, incarnation: int, wanted_slot: int | None) -> pb.JoinReply:
    request = pb.JoinRequest(
        protocol=rpc.PROTOCOL,
        incarnation=incarnation,
        host=socket.gethostname(),
        pid=os.getpid(),
        wanted_slot=wanted_slot,
    )
    return _ask(client, address, "Join", request, pb.JoinReply)


def _ask(client: rpc.Client, address: str, call: str, request: Message, reply: type[Reply]) -> Reply:
    """Ask a learner that may not be there yet."""
    try:
        answer = client.unary(call, request, reply, JOIN_TIMEOUT_S, wait=True)
    except DeadlineError as error:
        raise UnavailableError(
            f"no learner gave a slot at {address} for {JOIN_TIMEOUT_S:g} s: is it running, and is "
            "the address the one that it prints as `learner listens on`? If so, it waits for its replay server; "
            f"`shoal status {address}` says which"
        ) from error
    rpc.check_protocol(answer.protocol, client.peer)
    return answer


class Actor:
    """One seat in a run: environments, policy network, the two streams."""

    def __init__(
        self, client: rpc.Client, address: str, incarnation: int, joined: pb.JoinReply, exporter: Exporter
    ) -> None:
        self._exporter = exporter
        self._run = run = RunSpec.unpack(joined.run)
        self._slot, self._round, self._first_round = joined.slot, joined.first_round, joined.first_round
        # the streams stand first: should anything below fail, the learner knows at once that this seat is free
        experience = joined.experience_address or address
        if experience.startswith(":"):
            experience = address.rpartition(":")[0] + experience
        self._channel = rpc.open_channel(experience, run.max_message_bytes, run.keepalive_s)
        self._stream = InsertStream(
            self._channel,
            f"the table at {experience}",
            run.table,
            self._slot,
            incarnation,
            window=run.window_chunks,
            max_chunk_bytes=run.max_chunk_bytes,
            patience_s=run.learner_patience_s,
            compress=crosses_network(experience),
            learner=joined.learner_incarnation,
        )
        self._weights = WeightsReceiver(
            client,
            self._slot,
            incarnation,
            joined.learner_incarnation,
            from_version=run.version_of(self._round) or 0,
            every=run.lag is not None,
            patience_s=run.learner_patience_s,
            on_end=self._stream.cancel,
        )
        self._stream.when_broken(self._weights.fail)
        self._envs: vector.Env | None = None
        self._version = -1
        self._waited_acks_s = 0.0
        self._lost_rows = 0

    def run(self) -> str:
        """Unroll until the run is over; returns why it is."""
        busy = Busy(lambda: f"the making of environment {self._run.env!r}")
        with watched(busy, self._run.step_deadline_s):
            self._prepare(busy)
            busy.made = True
            self._exporter.joined()
            while self._unroll():
                self._round += 1
        return self._weights.finished or "closed"

    def _prepare(self, busy: Busy) -> None:
        """Environments, network, and what unrolls the one with the other."""
        run = self._run
        import_modules(run.imports)
        with busy:
            self._envs = envs = vector.make(run.env, run.envs_per_actor, run.env_kwargs, run.env_wrappers)
            spec = vector.spec_of(run.env, envs)
        self._algorithm = make(run.algorithm, run.settings)
        seed = self._seed_of(self._round)
        self._network = self._algorithm.network(spec)
        self._flat = flatten(self._network)
        if self._flat.manifest() != run.manifest:
            raise WeightsCorruptError(
                f"this actor's network for {run.env!r} differs from the learner's (manifest {self._flat.manifest()} "
                f"against {run.manifest}): the same Shoal, torch and environment versions are needed on both sides"
            )
        collect = self._algorithm.plan().collect
        self._unroller: Unroller | Replayer
        if isinstance(collect, Recorded):
            self._unroller = Replayer(spec, collect, run.envs_per_actor, self._slot, run.slots, seed)
        else:
            self._unroller = Unroller(envs, spec, collect, seed, busy)

    def _unroll(self) -> bool:
        run, started_s = self._run, time.perf_counter()
        snapshot = self._weights.take(run.version_of(self._round), LONGEST_ROUND_S, self._must_contain())
        if snapshot is None:
            return False
        if snapshot.version != self._version:
            self._flat.load(params_of(snapshot))
            self._version = snapshot.version
        acting_s = time.perf_counter()
        restarted = self._round > self._first_round and run.restarts(self._round)
        if restarted:
            self._unroller.restart(self._seed_of(self._round))
        task = Task(
            run.seed, self._slot, run.slots, self._round, snapshot.env_steps, run.budget_env_steps, explore=True
        )
        unroll, episodes = self._unroller.collect(self._algorithm.policy(self._network, task))
        item = self._algorithm.item(self._network, unroll, task)
        header = UnrollHeader(
            slot=self._slot,
            round=self._round,
            version=snapshot.version,
            env_steps=int(unroll["valid"].sum()),
            episodes=tuple(episodes),
            act_s=time.perf_counter() - acting_s,
            wait_weights_s=acting_s - started_s,
            wait_acks_s=self._waited_acks_s,
            restarted=restarted,
        )
        return self._send(header, item)

    def _seed_of(self, round_: int) -> int:
        """Of environments that begin in that round."""
        return vector.seed_of(self._run.seed, self._slot, first_round=round_)

    def _must_contain(self) -> int | None:
        """The round that the next weights must have learned from, where the plan says so: the last one sent here."""
        pace = self._algorithm.plan().pace
        waits = self._run.lag is None and isinstance(pace, Async) and pace.own_applied
        return self._round - 1 if waits and self._round > self._first_round else None

    def _send(self, header: UnrollHeader, item: Columns) -> bool:
        """Insert an unroll; False where the run is over. Raises what broke either stream for good."""
        try:
            self._waited_acks_s = self._stream.insert(header, item)
            self._exporter.unroll(header)
            self._tell_losses()
        except TableClosedError:
            if self._weights.error is not None:  # the learner is gone, which ended the insert
                raise self._weights.error from None
            if self._weights.finished is None:
                raise
            return False
        return True

    def _tell_losses(self) -> None:
        lost, self._lost_rows = self._stream.lost_rows - self._lost_rows, self._stream.lost_rows
        if lost:
            words = "slot %d: %d env steps that were acknowledged, or might have been, are gone"
            logger.warning(words, self._slot, lost)

    def close(self) -> None:
        """End the streams and the environments."""
        self._weights.close()
        self._stream.close()
        self._channel.close()
        if self._envs is not None:
            self._envs.close()


LONGEST_ROUND_S = 3600.0
"""No round takes longer; the lease ends the wait much earlier when the learner is gone."""
