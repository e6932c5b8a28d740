"""Lag mode at a real replay server: rounds are staged, then applied, then priorities are set, then items are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import rpc
from core.draws import Reply
from core.sampling import SampleStream
from core.stream import InsertStream
from core.types import Array
from protos import experience_pb2 as pb
from replay_server.data_dir import DataDir
from replay_server.service import ExperienceService
from tests.conftest import Threads
from tests.services.experience import DEFINITION, EXPERIENCE, B, T, ensure, figure, info
from tests.services.serving import DEADLINE_S, Serving, wait_until
from tests.unit.counting import CountingLife

STAGED = replace(DEFINITION, capacity=120, min_size=1, before=0, after=1, writers=3, sampler="prioritised", staged=True)


class Replay:
    """A server with a staged table, its actors and its learner."""

    def __init__(self, folder: Path, slots: int) -> None:
        folder.mkdir()
        self.serving, self._folder = Serving(folder), folder / "data"
        self._services: list[ExperienceService] = []
        self.service = self._serve()
        self.client = rpc.Client(self.serving.channel(), EXPERIENCE, "the replay server")
        ensure(self.client, replace(STAGED, writers=slots, capacity=40 * slots))
        self.lives = [CountingLife(slot, 1, B, np.random.default_rng(slot)) for slot in range(slots)]
        self.actors = [InsertStream(self.serving.channel(), "the server", "experience", s, 1) for s in range(slots)]
        self.learner = SampleStream(self.serving.channel(), "the server", "experience", 5, headers=True)
        self.told: list[tuple[int, int]] = []
        self.env_steps: dict[tuple[int, int], int] = {}

    def _serve(self) -> ExperienceService:
        self._data_dir = DataDir(self._folder, durable=False)
        service = ExperienceService(data_dir=self._data_dir)
        service.recover()
        self.serving.start(EXPERIENCE, service)
        self._services.append(service)
        return service

    def restart(self) -> None:
        """As a kill -9 does: what was staged is gone."""
        self.serving.stop()
        self._data_dir.close()
        self.service = self._serve()

    def deliver(self, round_: int, slots: Sequence[int]) -> None:
        """One unroll of each, staged one after the other; the learner hears of it."""
        for slot in slots:
            self.send(round_, slot)
            while (slot, round_) not in self.told:
                self.note(self.learner.receive(DEADLINE_S))

    def send(self, round_: int, slot: int) -> None:
        columns = self.lives[slot].unroll(T)
        header = self.lives[slot].header(columns, round=round_)
        self.env_steps[slot, round_] = header.env_steps
        self.actors[slot].insert(header, columns)

    def note(self, reply: Reply) -> None:
        self.told += [(header.slot, header.round) for header in reply.headers]

    def drawn(self) -> Reply:
        """The next draw; what is told before it is noted."""
        while True:
            reply = self.learner.receive(DEADLINE_S)
            self.note(reply)
            if reply.keys is not None:
                return reply

    def leave_out_slot_1(self) -> int:
        """Round 0 is applied without it, and its unroll comes late; returns the items that are in."""
        self.deliver(0, [0, 2])
        self.learner.request(0, apply=(0, [0, 2]))
        inserted = self.drawn().inserted_items
        self.send(0, 1)
        self.actors[1].flush(DEADLINE_S)
        return inserted

    def waiter(self, who: str) -> pb.Waiter | None:
        return next((w for w in info(self.client).tables[0].waiters if w.who == who), None)

    def close(self) -> None:
        self.learner.close()
        for actor in self.actors:
            actor.cancel()
        self.serving.close()
        self._data_dir.close()
        for service in self._services:
            for hosted in service.replay_tables():
                hosted.table.close()


@pytest.fixture
def replays(tmp_path: Path) -> Iterator[list[Replay]]:
    replays = [Replay(tmp_path / name, slots=3) for name in "ab"]
    yield replays
    for replay in replays:
        replay.close()


def test_the_order_of_arrival_does_not_matter(replays: list[Replay]) -> None:
    draws: list[list[tuple[Array, Array, Array]]] = [[], []]
    unknown = 0
    for replay, orders, out in zip(replays, ([0, 1, 2], [2, 0, 1]), draws, strict=True):
        priorities = None
        for round_ in range(12):
            replay.deliver(round_, orders[round_ % 3 :] + orders[: round_ % 3])
            replay.learner.request(2, apply=(round_, [0, 1, 2]), priorities=priorities)
            reply = replay.drawn()
            assert reply.keys is not None
            assert reply.probability is not None
            assert reply.columns is not None
            out.append((reply.keys, reply.probability, reply.columns["obs"]))
            priorities = reply.keys, (reply.keys % 7 + 0.5).astype(np.float32)
            unknown += reply.unknown_keys
    for ours, theirs in zip(*draws, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({keys.tobytes() for keys, _, _ in draws[0]}) == 12
    assert unknown > 0, "priorities come behind the round, which overwrites some of their items"


def test_what_is_staged_is_acknowledged_when_it_is_applied(replays: list[Replay]) -> None:
    replay = replays[0]
    replay.deliver(0, [0, 1])
    replay.deliver(1, [0])
    assert [actor.unacknowledged for actor in replay.actors] == [2, 1, 0]
    assert (figure(replay.client, "staged"), figure(replay.client, "items")) == (3, 0)
    replay.learner.request(0, apply=(0, [0, 1]))
    assert replay.drawn().inserted_items > 0
    wait_until(lambda: [actor.unacknowledged for actor in replay.actors] == [1, 0, 0], "round 0 is acknowledged")
    assert figure(replay.client, "staged") == 1


def test_a_round_waits_for_its_slots_and_says_for_which(replays: list[Replay]) -> None:
    replay = replays[0]
    replay.deliver(0, [2, 0])
    replay.learner.request(1, apply=(0, [0, 1, 2]))
    reply = replay.learner.receive(DEADLINE_S)
    assert reply.keys is None
    assert "round 0 waits for the unrolls of slots [1]" in reply.reason
    waiter = replay.waiter("the learner")
    assert waiter is not None
    assert waiter.what == "round 0"
    assert "slots [1]" in waiter.reason
    replay.send(0, 1)
    assert replay.drawn().keys is not None
    assert replay.waiter("the learner") is None


def test_a_slot_that_was_dropped_is_not_waited_for_and_comes_too_late(replays: list[Replay]) -> None:
    replay = replays[0]
    inserted = replay.leave_out_slot_1()
    assert figure(replay.client, "inserted") == inserted
    replay.deliver(1, [1, 0, 2])  # it goes on with the next round
    replay.learner.request(1, apply=(1, [0, 1, 2]))
    assert replay.drawn().inserted_items > inserted
    assert replay.told.count((1, 0)) == 0


def test_a_learner_whose_connection_broke_is_told_again_and_the_older_stream_nothing_more(
    replays: list[Replay],
) -> None:
    replay, told = replays[0], list[tuple[int, int]]()
    replay.deliver(0, [0, 2])
    newer = SampleStream(replay.serving.channel(), "the server", "experience", 5, headers=True)
    while len(told) < 2:
        told += [(header.slot, header.round) for header in newer.receive(DEADLINE_S).headers]
    assert told == [(0, 0), (2, 0)]
    replay.send(0, 1)
    assert [(h.slot, h.round) for h in newer.receive(DEADLINE_S).headers] == [(1, 0)]
    newer.request(0, apply=(0, [0, 1, 1, 2, 2]))
    assert newer.receive(DEADLINE_S).keys is not None
    assert figure(replay.client, "staged") == 0
    replay.learner.request(1)
    assert not replay.drawn().headers
    assert replay.told == [(0, 0), (2, 0)]
    newer.close()


def test_close_wakes_who_waits_for_the_ack_of_a_staged_unroll(replays: list[Replay], threads: Threads) -> None:
    replay = replays[0]
    replay.deliver(0, [0])
    stopped = threads.start(replay.serving.stop)
    stopped.result(DEADLINE_S)
    assert replay.actors[0].unacknowledged == 1


def test_a_life_whose_acks_a_restart_forgot_sends_all_again_and_nothing_is_twice(replays: list[Replay]) -> None:
    """A late unroll is acknowledged by the server's memory alone, what follows it is sent anew by another life."""
    replay = replays[0]
    inserted = replay.leave_out_slot_1()
    replay.deliver(1, [0, 1, 2])
    replay.restart()
    replay.learner.request(1, apply=(1, [0, 1, 2]))
    assert replay.drawn().inserted_items == inserted + sum(replay.env_steps[slot, 1] for slot in range(3))
    wait_until(lambda: [actor.unacknowledged for actor in replay.actors] == [0, 0, 0], "round 1 is acknowledged")
    assert replay.service.replay_tables()[0].table.stats().lives == 3
