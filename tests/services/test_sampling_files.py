"""core/sampling.py by reference: windows from a table's files, what was overwritten, files of no use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core import errors, wire
from core import sampling as sampling_module
from core.sampling import MOST_TORN
from core.types import UnrollHeader
from tests.services.scripted_sampling import OpenSampling, SampleServer, open_sampling, sample_server
from tests.services.serving import DEADLINE_S
from tests.unit.mapping import Folder

__all__ = ["open_sampling", "sample_server"]
KEYS, PRIORITIES = np.array([4, 9]), np.array([0.5, 2.0], np.float32)


def test_files_that_cannot_be_read_are_done_without(
    sample_server: SampleServer, open_sampling: OpenSampling, caplog: pytest.LogCaptureFixture
) -> None:
    stream = open_sampling(by_reference=True)
    first = sample_server.next()
    assert first.open(directory="/nowhere/table").by_reference
    stream.request(1)
    second = sample_server.next()
    assert not second.open().by_reference
    assert second.draws(1) == [0]
    second.answer(0, [1], {"obs": np.zeros((2, 1))})
    reply = stream.receive(DEADLINE_S)
    assert reply.columns is not None
    assert list(reply.columns) == ["obs"]
    assert not stream.by_reference
    assert [r.message for r in caplog.records if "columns come through the connection" in r.message] != []


def test_keys_come_and_windows_are_read_from_the_files(
    sample_server: SampleServer, open_sampling: OpenSampling, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "table", before=0, after=1)
    stream = open_sampling(by_reference=True)
    call = sample_server.next()
    call.open(directory=str(folder.path))
    assert stream.opened.directory
    assert stream.by_reference
    stream.request(1)
    call.answer(0, [2, 7], {"probability": np.full(2, 0.5)})
    reply = stream.receive(DEADLINE_S)
    assert reply.columns is not None
    assert reply.probability is not None
    assert reply.columns["obs"][..., 0].tolist() == [[2, 7], [3, 8]]
    stream.request(0)
    call.answer(1, [])
    assert stream.receive(DEADLINE_S).columns == {}
    call.send(errors.UnavailableError("restarts"))
    again = sample_server.next()
    again.open(directory=str(folder.path))
    stream.request(1)
    again.answer(2, [3])
    reply = stream.receive(DEADLINE_S)
    assert reply.columns is not None
    assert reply.columns["reward"].tolist() == [[3]]
    assert stream.torn == 0


def test_a_torn_draw_is_asked_again_and_keeps_its_place(
    sample_server: SampleServer, open_sampling: OpenSampling, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "table", before=0, after=1, tail=5)
    stream = open_sampling(by_reference=True)
    call = sample_server.next()
    call.open(directory=str(folder.path))
    for _ in range(3):
        stream.request(1, apply=(1, [0]), priorities=(KEYS, PRIORITIES))
    stream.set_priorities(KEYS, PRIORITIES)
    assert call.draws(4) == [0, 1, 2]
    header = UnrollHeader(4, 7, 6, 12)
    call.answer(0, [6, 4], headers=[wire.header_to_proto(header)], unknown_keys=1)
    news = stream.receive(DEADLINE_S)
    assert (news.keys, list(news.headers), news.unknown_keys, stream.torn) == (None, [header], 1, 1)
    draw, priorities = call.next()
    assert draw is not None
    assert (draw.draw, draw.HasField("apply"), priorities) == (0, False, {})
    call.answer(1, [7])
    call.answer(2, [8])
    call.answer(0, [9])
    replies = [stream.receive(DEADLINE_S) for _ in range(3)]
    assert [reply.draw for reply in replies] == [0, 1, 2]
    assert [reply.keys.tolist() for reply in replies if reply.keys is not None] == [[9], [7], [8]]


def test_a_draw_that_is_torn_again_and_again_comes_through_the_connection(
    sample_server: SampleServer, open_sampling: OpenSampling, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "table", before=0, after=1, tail=5)
    stream = open_sampling(by_reference=True)
    call = sample_server.next()
    call.open(directory=str(folder.path))
    stream.request(1, priorities=(KEYS, PRIORITIES))
    for _ in range(MOST_TORN + 1):
        assert call.draws(1) == [0]
        call.answer(0, [4])
    again = sample_server.next()
    assert not again.open().by_reference
    draw, priorities = again.next()
    assert draw is not None
    assert (draw.draw, priorities) == (0, {})
    again.answer(0, [1], {"obs": np.zeros((2, 1))})
    replies = [stream.receive(DEADLINE_S) for _ in range(MOST_TORN + 2)]
    assert [reply.keys is None for reply in replies] == [True] * (MOST_TORN + 1) + [False]
    assert not stream.by_reference


def test_a_draw_that_was_answered_behind_a_torn_one_is_not_asked_again(
    sample_server: SampleServer, open_sampling: OpenSampling, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "table", before=0, after=1, tail=5)
    stream = open_sampling(by_reference=True)
    call = sample_server.next()
    call.open(directory=str(folder.path))
    for _ in range(2):
        stream.request(1)
    call.answer(0, [4])
    call.answer(1, [7])
    assert call.draws(3) == [0, 1, 0]
    call.send(errors.UnavailableError("restarts"))
    again = sample_server.next()
    again.open(directory=str(folder.path))
    assert again.draws(1) == [0]
    again.answer(0, [6])
    assert [stream.receive(DEADLINE_S).draw for _ in range(3)] == [0, 0, 1]
    assert again.requests.empty()


def test_where_stores_have_no_order_columns_are_asked_for(
    sample_server: SampleServer, open_sampling: OpenSampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "ORDERED_STORES", False)
    open_sampling(by_reference=True)
    assert not sample_server.next().open().by_reference
