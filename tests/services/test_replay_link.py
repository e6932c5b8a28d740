"""The learner's connection to a replay server: what it finds there, and what it tells of it; the server is scripted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from core import rpc
from core.clock import FakeClock
from core.config import Config, from_plain
from core.errors import ConfigError
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Async, Lag, Plan, Replay, Rows
from learner.checkpoints import Start
from learner.link import ReplayLink, definition_of
from learner.pace import Drawing
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from tests.services.scripted_sampling import EXPERIENCE, SampleServer
from tests.services.serving import Serving

SIGNATURE = Signature({"valid": ColumnSpec(ArraySpec((), "uint8"))}, max_rows=4, max_envs=2)
REPLAY = Replay(capacity=1000, batch_size=8, min_size=100, updates_per_env_step=0.25)
BEGINNING = Start()
WHY = "a sample waits for the first items: inserted 3 of min_size 100"


class Server(SampleServer):
    """Has the table already; says of it what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.created, self.kept = False, False
        self.calls: list[str] = []
        self.figures: dict[str, float] = {}
        self.asked: list[ReplayDefinition] = []

    async def Info(self, request: Any, context: Any) -> pb.InfoReply:
        told = pb.InfoReply(protocol=rpc.PROTOCOL, addresses=["unix:/s", "127.0.0.1:7401"])
        table = told.tables.add(name="experience", figures=self.figures)
        table.waiters.add(who="the learner", what="items to sample", waited_s=2.5, reason=WHY)
        return told

    async def EnsureTable(self, request: pb.EnsureTableRequest, context: Any) -> pb.EnsureTableReply:
        self.asked.append(ReplayDefinition.unpack(request.table.settings))
        self.calls.append(f"EnsureTable for {request.learner}")
        return pb.EnsureTableReply(created=self.created, changed=["min_size: 3 -> 100"], kept=self.kept)

    async def DropTable(self, request: pb.DropTableRequest, context: Any) -> pb.DropTableReply:
        self.calls.append("DropTable")
        self.created = True
        return pb.DropTableReply(items=41)

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.RollbackReply:
        self.calls.append(f"Rollback to {request.round}")
        return pb.RollbackReply(items=41, lost_items=2)

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointReply:
        self.calls.append(f"Checkpoint of {request.round}")
        return pb.CheckpointReply()


@pytest.fixture
def server(serving: Serving) -> Server:
    server = Server()
    serving.start(EXPERIENCE, server)
    return server


@pytest.fixture
def links(serving: Serving) -> Iterator[list[ReplayLink]]:
    links: list[ReplayLink] = []
    yield links
    for link in links:
        link.close()


def config() -> Config:
    return from_plain({"algorithm": "dqn", "actors": 2, "faults": {"learner_patience_s": 20.0}})


def connect(
    links: list[ReplayLink],
    serving: Serving,
    pace: Lag | Async,
    clock: FakeClock | None = None,
    start: Start = BEGINNING,
) -> ReplayLink:
    definition = definition_of("experience", Plan(Rows(4), REPLAY, pace), REPLAY, SIGNATURE, 2)
    links.append(ReplayLink(serving.address, config(), definition, start, 9, clock=clock))
    return links[-1]


def test_what_gave_way_and_what_is_there_already_is_logged(
    server: Server, links: list[ReplayLink], serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server.figures = {"items": 41, "inserted": 50}
    with caplog.at_level(logging.WARNING):
        link = connect(links, serving, Async())
    assert "min_size: 3 -> 100" in caplog.text
    assert "holds 41 items of before: they are learned from" in caplog.text
    assert link.tcp_address == "127.0.0.1:7401"
    assert not server.asked[0].staged
    opened = server.next().open()
    assert (opened.table, opened.headers, opened.by_reference, opened.compress) == ("experience", True, True, False)


def test_with_a_fixed_lag_rounds_of_before_are_refused(
    server: Server, links: list[ReplayLink], serving: Serving
) -> None:
    server.figures = {"items": 0, "inserted": 5000}
    with pytest.raises(ConfigError, match=r"had 5,000 items of other rounds: .* begins with an empty table"):
        connect(links, serving, Lag(1))
    server.figures = {"items": 0, "inserted": 0}
    connect(links, serving, Lag(1))
    assert [definition.staged for definition in server.asked] == [True, True]


def test_a_server_that_is_away_is_said_to_be_waited_for_and_since_when(
    server: Server, links: list[ReplayLink], serving: Serving
) -> None:
    server.created, server.figures = True, {"items": 3}
    clock = FakeClock(100.0)
    link = connect(links, serving, Async(), clock)
    figures, waiters = link.ask()
    assert figures == {"items": 3, "torn": 0}
    assert waiters == [("experience", "the learner", "items to sample", 2.5, WHY)]
    serving.stop()
    link.ask()
    clock.advance(4.0)
    figures, (waiter,) = link.ask()
    assert figures == {}
    assert waiter[:4] == ("experience", "the learner", "the replay server", 4.0)
    assert "cannot be reached" in waiter.reason
    assert "after 20 s without it the run ends" in waiter.reason
    serving.start(EXPERIENCE, server)
    while link.ask()[0] == {}:  # its channel tries again when it thinks right
        clock.advance(1.0)
    assert [waiter.what for waiter in link.ask()[1]] == ["items to sample"]


@pytest.mark.parametrize("start", [Start(version=12), Start(version=0, exact=False)])
def test_a_table_in_memory_is_made_anew_for_a_learner_that_goes_on(
    server: Server, links: list[ReplayLink], serving: Serving, start: Start
) -> None:
    server.figures = {"items": 41, "inserted": 50}
    link = connect(links, serving, Lag(1), start=start)
    assert server.calls == ["EnsureTable for 9", "DropTable", "EnsureTable for 9"]
    assert not link.exact
    assert not link.checkpoint(13)
    assert len(server.calls) == 3


def test_a_table_in_files_goes_back_to_the_checkpoint(
    server: Server, links: list[ReplayLink], serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server.figures, server.kept = {"items": 41, "inserted": 50}, True
    with caplog.at_level(logging.WARNING):
        link = connect(links, serving, Lag(1), start=Start(12, drawing=Drawing(seed=3, next_draw=7)))
    assert link.checkpoint(15)
    assert server.calls == ["EnsureTable for 9", "Rollback to 12", "Checkpoint of 15"]
    assert not link.exact, "items of it are lost"
    assert "lost 2 items" in caplog.text


def test_a_new_run_takes_no_table_of_another_one(server: Server, links: list[ReplayLink], serving: Serving) -> None:
    for server.kept in (False, True):
        server.figures = {"items": 41, "inserted": 50}
        with pytest.raises(ConfigError, match="had 50 items of other rounds"):
            connect(links, serving, Lag(1))
    assert "DropTable" not in server.calls
