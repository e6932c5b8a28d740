"""The Experience service as clients see it: a real server and socket, a real replay table or queue behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core import rpc, wire
from core.stream import InsertStream
from replay_server import sample_stream
from replay_server.reports import MERGED_SLOT
from replay_server.service import ExperienceService
from tests.services.experience import (
    DEFINITION,
    B,
    Sampler,
    T,
    ensure,
    figure,
    info,
    send,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until
from tests.unit.counting import CountingLife


def test_rows_go_in_and_true_windows_come_out(
    table: rpc.Client, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    env_steps = send(stream, CountingLife(0, 7, B, rng), 4)
    stream.flush(DEADLINE_S)
    keys, columns, replies = sampler.draw(0)
    assert keys.shape == (16,)
    assert {name: column.shape for name, column in columns.items()} == {
        "obs": (4, 16, 1),
        "reward": (3, 16),
        "valid": (3, 16),
    }
    numbers = columns["reward"][1]
    np.testing.assert_array_equal(columns["obs"][1:, :, 0], numbers + np.arange(3)[:, None])
    headers = [wire.header_from_proto(h) for reply in replies for h in reply.headers]
    assert [h.round for h in headers] == [1, 2, 3, 4]
    assert sum(h.env_steps for h in headers) == env_steps
    assert (replies[-1].inserted_items, replies[-1].sampled_items) == (figure(table, "inserted"), 16)


def test_equal_draws_of_equal_tables_are_equal(
    table: rpc.Client, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    send(stream, CountingLife(0, 7, B, rng), 6)
    stream.flush(DEADLINE_S)
    first, second = sampler.draw(0)[0], sampler.draw(1)[0]
    assert first.tolist() != second.tolist()
    again = Sampler(table)
    assert again.draw(1)[0].tolist() == second.tolist()
    again.close()


def test_a_draw_that_must_wait_brings_news_until_it_may_go(
    monkeypatch: pytest.MonkeyPatch,
    table: rpc.Client,
    stream: InsertStream,
    sampler: Sampler,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setattr(sample_stream, "NEWS_EVERY_S", 0.01)
    life = CountingLife(0, 7, B, rng, end=0.0)
    send(stream, life, 1)
    stream.flush(DEADLINE_S)
    sampler.ask(3)
    news, payload = sampler.reply()
    assert (news.draw, len(payload), len(news.headers)) == (3, 0, 1)
    assert "waits for the first items: inserted" in news.reason
    assert len(sampler.reply().message.headers) == 0
    send(stream, life, 4)
    stream.flush(DEADLINE_S)
    while not payload:
        news, payload = sampler.reply()
    assert wire.decode(payload)["key"].shape == (16,)
    assert news.waited_s > 0
    assert 20 <= news.items <= figure(table, "items")  # as it was when the draw was made


def test_headers_that_nobody_asked_for_in_time_come_merged(
    service: ExperienceService, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    service.hosted("experience").table.reports.limit = 2
    env_steps = send(stream, CountingLife(0, 7, B, rng), 5)
    stream.flush(DEADLINE_S)
    _, _, replies = sampler.draw(0)
    headers = [wire.header_from_proto(h) for reply in replies for h in reply.headers]
    assert [h.slot for h in headers] == [MERGED_SLOT, 0, 0]
    assert sum(h.env_steps for h in headers) == env_steps


def test_the_rate_limiter_stops_the_acks_and_says_who_waits(
    serving: Serving, service: ExperienceService, client: rpc.Client, rng: np.random.Generator
) -> None:
    assert ensure(client, replace(DEFINITION, samples_per_insert=4.0))
    stream = InsertStream(serving.channel(), "the replay server", "experience", 0, 7)
    sampler = Sampler(client)
    life = CountingLife(0, 7, B, rng, end=0.0)
    hosted = service.hosted("experience")
    while hosted.table.limiter.may_insert(T * B):
        send(stream, life, 1)
        stream.flush(DEADLINE_S)
    send(stream, life, 1)
    wait_until(lambda: any(table.waiters for table in info(client).tables), "somebody waits")
    (told,) = info(client).tables
    assert [(w.who, w.what) for w in told.waiters] == [("actor 0", "room to insert")]
    assert stream.unacknowledged == 1
    before = told.figures["inserted"]
    draw = 0
    while hosted.table.inserted == before and not hosted.table.limiter.may_insert(T * B):
        sampler.draw(draw)
        draw += 1
    assert draw > 0
    stream.flush(DEADLINE_S)
    assert figure(client, "inserted") == before + T * B
    stream.close()
    sampler.close()
