"""The learner's Info: who waits for whom, as `shoal status` shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import actors.main
from core import rpc
from core.clock import SystemClock
from core.config import from_plain
from core.errors import ConfigError
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Async, Lag, Plan, Queue, Replay, Rows
from learner.bottleneck import Verdict
from learner.checkpoints import Start
from learner.replay import LagFetch
from learner.services import TABLE, Services
from protos import learner_pb2 as pb
from replay_server.service import ExperienceService
from tests.conftest import Threads
from tests.services.experience import EXPERIENCE
from tests.services.serving import Serving, wait_until

SIGNATURE = Signature({"valid": ColumnSpec(ArraySpec((), "uint8"))}, max_rows=4, max_envs=2)
REPLAY = Replay(capacity=1000, batch_size=8, min_size=100, updates_per_env_step=0.25)
DEADLINE_S = 10.0


class Learner:
    """The services of a learner that never trains. `start` returns when the replay server, if it has one, answers."""

    def __init__(self, folder: Path, plan: Plan, replay_address: str | None = None, env: str = "CartPole-v1") -> None:
        config = from_plain({"algorithm": "ppo", "actors": 2, "env": env})
        self.services = Services(
            config,
            plan,
            SIGNATURE,
            manifest="m",
            incarnation=7,
            start=Start(),
            env_steps=0,
            restart_every_rounds=0,
            news=lambda: ({}, Verdict("learner", "")),
        )
        self._address, self._replay_address = f"unix:{folder / 'learner'}", replay_address
        self.channel = rpc.open_channel(self._address)
        self.client = rpc.Client(self.channel, pb.DESCRIPTOR.services_by_name["Learner"], "the learner")

    def start(self) -> None:
        self.services.start([self._address], self._replay_address)

    def join(self, incarnation: int) -> int:
        request = pb.JoinRequest(protocol=rpc.PROTOCOL, incarnation=incarnation, host="h", pid=1)
        return self.client.unary("Join", request, pb.JoinReply, DEADLINE_S, wait=True).slot

    def info(self) -> pb.LearnerInfoReply:
        return self.client.unary("Info", pb.LearnerInfoRequest(), pb.LearnerInfoReply, DEADLINE_S, wait=True)

    def close(self) -> None:
        self.channel.close()
        self.services.finish("the test is over")
        self.services.close()


@pytest.fixture
def learner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Learner]:
    learner = Learner(tmp_path, request.param)
    learner.start()
    yield learner
    learner.close()


@pytest.mark.parametrize("learner", [Plan(Rows(4), Queue(), Lag(1)), Plan(Rows(4), REPLAY, Lag(1))], indirect=True)
def test_a_round_that_is_waited_for_names_who_owes_it(learner: Learner) -> None:
    started_s = SystemClock().now_s()
    assert not learner.info().waiters
    learner.join(1)
    learner.join(2)
    learner.services.publish(0, 0, np.zeros(1, np.float32))
    wait_until(lambda: len(learner.info().waiters) == 1, "the learner waits")
    waiter = learner.info().waiters[0]
    assert (waiter.table, waiter.who, waiter.what) == (TABLE, "the learner", "a round")
    assert waiter.reason == "round 0 waits for the unrolls of slots 0, 1"
    assert 0 <= waiter.waited_s <= SystemClock().now_s() - started_s
    assert learner.services.status().waiters[0].reason == waiter.reason


@pytest.mark.slow
@pytest.mark.parametrize("learner", [Plan(Rows(4), REPLAY, Async())], indirect=True)
def test_a_replay_tables_figures_and_waiters_come_from_its_server(learner: Learner) -> None:
    fetch = learner.services.fetch()
    wait_until(lambda: bool(learner.services.status().tables), "the replay server was asked")
    figures = learner.services.status().tables[TABLE]
    assert (figures["items"], figures["capacity"]) == (0, 1000)
    (told,) = learner.info().tables
    assert (told.name, told.figures["capacity"]) == (TABLE, 1000)
    wait_until(lambda: len(learner.info().waiters) == 1, "the draw waits")
    waiter = learner.info().waiters[0]
    assert (waiter.table, waiter.who) == (TABLE, "the learner")
    assert "inserted 0 of min_size 100" in waiter.reason
    wait_until(lambda: learner.info().waiters[0].waited_s > 0.6, "it is told since when the draw waits")
    fetched = fetch()
    assert fetched is not None
    assert not fetched[1].is_round


@pytest.mark.parametrize("learner", [Plan(Rows(4), Replay(130, 8, 90, 0.25), Async())], indirect=True)
def test_an_actor_too_many_for_the_ring_is_refused_with_the_arithmetic(learner: Learner) -> None:
    assert [learner.join(1), learner.join(2)] == [0, 1]
    with pytest.raises(Exception, match="3 actors that send 4 rows of 2 environments"):
        learner.join(3)
    assert learner.join(2) == 1


def test_before_there_is_a_replay_server_the_learner_and_who_joins_are_said_to_wait(
    tmp_path: Path, serving: Serving, threads: Threads
) -> None:
    with contextlib.closing(Learner(tmp_path, Plan(Rows(4), REPLAY, Async()), serving.address)) as learner:
        threads.start(learner.start)
        joins = threads.start(learner.join, 1)
        wait_until(lambda: len(learner.info().waiters) == 2, "both wait")
        learners, actors = learner.info().waiters
        assert (learners.table, learners.who, learners.what) == (TABLE, "the learner", "the replay server")
        assert (actors.who, actors.what) == ("the actor on h (pid 1)", "the replay server")
        assert f"has not reached the one at {serving.address}" in actors.reason
        assert "after 60 s without it (faults.start_timeout_s)" in actors.reason
        serving.start(EXPERIENCE, ExperienceService())
        assert joins.result(DEADLINE_S) == 0
        assert "the replay server" not in [waiter.what for waiter in learner.info().waiters]
        threads.join()


@pytest.mark.parametrize("learner", [Plan(Rows(4), REPLAY, Lag(1))], indirect=True)
def test_a_run_whose_table_went_back_in_time_cannot_be_repeated(learner: Learner) -> None:
    assert learner.services.status().deterministic
    fetch = learner.services.fetch()
    assert isinstance(fetch, LagFetch)
    fetch.went_back = True
    assert not learner.services.status().deterministic


@pytest.mark.parametrize("allowed", [[], ["my.other"]])
def test_an_actor_that_refuses_the_runs_code_takes_no_seat(tmp_path: Path, allowed: list[str]) -> None:
    """A round would wait for it."""
    with contextlib.closing(Learner(tmp_path, Plan(Rows(4), Queue(), Lag(1)), env="my.envs:Maze")) as learner:
        (address,) = learner.services.start(["127.0.0.1:0"], None)
        somewhere = f"LOCALHOST:{address.rpartition(':')[2]}"  # to Shoal a name like any other
        with pytest.raises(ConfigError, match=r"wants my\.envs to be imported, and nothing proves"):
            actors.main.run(somewhere, allowed=allowed)
        assert learner.services.status().seated == ()
