"""`shoal status` as it is shown, and whom it asks; the servers are scripted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from core import rpc
from core.errors import PeerIncompatibleError, UnavailableError
from core.specs import ArraySpec, ColumnSpec, Signature
from protos import experience_pb2, learner_pb2
from replay_server.definition import ReplayDefinition
from shoal import status
from shoal.status import Tables
from tests.services.serving import Serving

EXPERIENCE = experience_pb2.DESCRIPTOR.services_by_name["Experience"]
LEARNER = learner_pb2.DESCRIPTOR.services_by_name["Learner"]
REASON = (
    "diff 64,000 + 128 x 32 samples an insert is over 32 x min_size 1,000 + error_buffer 8,192: "
    "the learner must sample 27,904 items first"
)


def definition(name: str, **changes: Any) -> ReplayDefinition:
    settings: dict[str, Any] = {
        "name": name,
        "signature": Signature({"obs": ColumnSpec(ArraySpec((4,), "float32"))}, 16, 8),
        "capacity": 100_000,
        "batch_size": 64,
        "max_batches": 16,
        "min_size": 1000,
        "samples_per_insert": 32.0,
        "before": 0,
        "after": 3,
        "writers": 1,
    }
    return ReplayDefinition(**{**settings, **changes})


def reply(inserted: float, sampled: float, age_s: float | None = 3.2) -> experience_pb2.InfoReply:
    told = experience_pb2.InfoReply(protocol=rpc.PROTOCOL, addresses=["127.0.0.1:7401", "unix:/tmp/replay.sock"])
    figures = {"items": 99_840.0, "capacity": 100_000.0, "held_bytes": 12.5 * (1 << 20), "inserted": inserted}
    table = told.tables.add(name="experience", figures={**figures, "sampled": sampled, "lives": 3.0, "evicted": 0.0})
    if age_s is not None:
        table.figures["manifest_age_s"] = age_s
    table.definition.settings = definition("experience", sampler="prioritised", staged=True, evict=False).pack()
    for slot in range(17):
        table.waiters.add(who=f"actor {slot}", what="room to insert", waited_s=slot / 2, reason=REASON)
    table.waiters.add(who="the learner", what="round 8", waited_s=1.25, reason="slot 3 has not sent round 8")
    return told


def shown(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(what)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    return text


def joined(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_replay_servers_tables_and_who_waits(width: int) -> None:
    text = shown(status.tables(Tables(reply(1000, 5000), reply(3469, 103_760), 2.0), "127.0.0.1:7401"), width)
    words = joined(text)
    assert "replay server at 127.0.0.1:7401 also at unix:/tmp/replay.sock" in words
    assert "experience 99,840 100,000 12.5 MiB 1,234 49,380 3.2 s ago" in words
    assert "experience: prioritised, 32 samples an insert, from 1,000 items on, batches of 64, 3 rows after" in words
    assert "applied by rounds, nothing is evicted" in words
    assert "3,469 items inserted, 103,760 items sampled, lives 3" in words
    assert "evicted 0" not in words
    assert "actor 16 (8.0 s), actor 15 (7.5 s), actor 14 (7.0 s), actor 13 (6.5 s), 13 more wait for room" in words
    assert words.count(REASON) == 1
    assert "the learner (1.2 s) waits for round 8 slot 3 has not sent round 8" in words


def test_what_is_not_known_is_a_dash_and_what_is_not_durable_has_no_manifest() -> None:
    before, now = reply(9, 9, None), reply(1, 1, None)
    before.tables[0].name = "another"
    words = joined(shown(status.tables(Tables(before, now, 1.0), "a:1")))
    assert "experience 99,840 100,000 12.5 MiB - - none" in words
    del now.tables[0].figures["held_bytes"]
    now.tables[0].definition.settings = b"?"
    words = joined(shown(status.tables(Tables(now, now, 1.0), "a:1")))
    assert "99,840 100,000 - 0 0 none" in words
    assert "experience: a replay table of another version of Shoal" in words


def test_a_server_that_was_started_again_meanwhile_has_no_negative_rate() -> None:
    words = joined(shown(status.tables(Tables(reply(10_000, 10_000), reply(4, 5), 1.0), "a:1")))
    assert "12.5 MiB 0 0 3.2 s ago" in words


def test_a_server_without_tables_or_waits_says_so() -> None:
    empty = experience_pb2.InfoReply(protocol=rpc.PROTOCOL)
    assert "no tables yet" in shown(status.tables(Tables(empty, empty, 1.0), "a:1"))
    quiet = reply(1, 1)
    del quiet.tables[0].waiters[:]
    assert "nobody waits" in shown(status.tables(Tables(quiet, quiet, 1.0), "a:1"))


@pytest.mark.parametrize("width", [72, 80, 120])
def test_a_learners_run_and_who_waits(width: int) -> None:
    told = learner_pb2.LearnerInfoReply(protocol=rpc.PROTOCOL, run="dqn on CartPole-v1", address="127.0.0.1:7400")
    told.figures["updates"], told.figures["actors_act_share"] = 11_120, 0.083
    told.bottleneck, told.advice = "replay", "the rate limiter holds the learner back"
    told.actors.add(
        slot=0, host="vm", pid=17, state="acting", restarts=2, env_steps_per_s=512, version=9, silent_s=0.25
    )
    told.actors[0].act_share = 0.931
    told.actors.add(slot=1, host="vm", pid=18, state="joining", version=-1)
    figures = {
        "items": 12.0,
        "capacity": 1000.0,
        "inserted": 9000.0,
        "sampled": 17.0,
        "duplicates": 3.0,
        "evicted": 0.0,
    }
    told.tables.add(name="experience", figures={**figures, "held_bytes": 1.5 * (1 << 20)})
    told.waiters.add(table="experience", who="the learner", what="items to sample", waited_s=2.5, reason=REASON)
    words = joined(shown(status.run(told), width))
    for part in (
        "dqn on CartPole-v1 at 127.0.0.1:7400",
        "updates 11,120",
        "actors act share 0.08",
        "bottleneck replay: the rate limiter holds the learner back",
        f"experience: the learner (2.5 s) waits for items to sample {REASON}",
        "table items capacity bytes manifest experience 12 1,000 1.5 MiB none",
        "9,000 items inserted, 17 items sampled, duplicates 3",
        "0 vm 17 acting 512 93% 9 0.2 s 2",
        "1 vm 18 joining 0 - - - 0",
    ):
        assert part in words
    assert "env slot host pid state steps/s acting version silent restarts" in words


class Learner:
    """Knows Info only."""

    def __init__(self, protocol: int = rpc.PROTOCOL) -> None:
        self.protocol = protocol

    async def Info(self, request: Any, context: Any) -> learner_pb2.LearnerInfoReply:
        return learner_pb2.LearnerInfoReply(protocol=self.protocol, run="ppo on X-v0")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: None


class Experience(Learner):
    """Counts the times that it was asked."""

    asked = 0

    async def Info(self, request: Any, context: Any) -> Any:
        self.asked += 1
        told = reply(1000.0 * self.asked, 0)
        told.protocol = self.protocol
        return told


def test_a_learner_is_asked_once(serving: Serving) -> None:
    serving.start(LEARNER, Learner())
    answer = status.ask(serving.address)
    assert isinstance(answer, learner_pb2.LearnerInfoReply)
    assert answer.run == "ppo on X-v0"


def test_a_replay_server_is_asked_twice_for_its_rates(serving: Serving) -> None:
    servicer = Experience()
    serving.start(EXPERIENCE, servicer)
    answer = status.ask(serving.address, rate_s=0.01)
    assert isinstance(answer, Tables)
    assert servicer.asked == 2
    assert answer.apart_s >= 0.01
    assert answer.now.tables[0].figures["inserted"] - answer.before.tables[0].figures["inserted"] == 1000


@pytest.mark.parametrize(("service", "servicer"), [(LEARNER, Learner), (EXPERIENCE, Experience)])
def test_another_protocol_is_said(serving: Serving, service: Any, servicer: type[Learner]) -> None:
    serving.start(service, servicer(rpc.PROTOCOL + 1))
    with pytest.raises(PeerIncompatibleError, match=f"speaks protocol {rpc.PROTOCOL + 1}"):
        status.ask(serving.address, rate_s=0.0)


def test_nobody_answers(serving: Serving) -> None:
    with pytest.raises(UnavailableError, match="cannot be reached"):
        status.ask(serving.address, timeout_s=0.5)
