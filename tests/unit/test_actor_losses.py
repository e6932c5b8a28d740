"""What an actor says when its server has lost acknowledged rows, and what ends it when its learner is gone."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import actors.main
from actors.main import Actor
from core.errors import ShoalError, TableClosedError, UnavailableError
from core.types import UnrollHeader


def test_lost_rows_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    stream = SimpleNamespace(lost_rows=0)
    actor = cast(Any, SimpleNamespace(_stream=stream, _lost_rows=0, _slot=3))
    told = []
    with caplog.at_level(logging.WARNING):
        for lost_rows in (0, 24, 24, 30):
            stream.lost_rows = lost_rows
            Actor._tell_losses(actor)
            told.append([record.getMessage().partition(" env steps")[0] for record in caplog.records])
            caplog.clear()
    assert told == [[], ["slot 3: 24"], [], ["slot 3: 6"]]


@pytest.mark.parametrize(
    ("error", "finished", "raised"),
    [
        (None, "budget", None),
        (UnavailableError("the learner cannot be reached"), None, UnavailableError),
        (None, None, TableClosedError),
    ],
)
def test_an_insert_that_was_ended_says_why(
    error: ShoalError | None, finished: str | None, raised: type[ShoalError] | None
) -> None:
    def insert(header: UnrollHeader, item: object) -> float:
        raise TableClosedError("the insert stream was closed")

    weights = SimpleNamespace(error=error, finished=finished)
    actor = cast(Any, SimpleNamespace(_stream=SimpleNamespace(insert=insert), _weights=weights))
    if raised is None:
        assert not Actor._send(actor, UnrollHeader(0, 0, 0, 4), {})
        return
    with pytest.raises(raised):
        Actor._send(actor, UnrollHeader(0, 0, 0, 4), {})


def test_without_a_slot_it_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.main, "JOIN_TIMEOUT_S", 0.05)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    with pytest.raises(UnavailableError, match=r"no learner gave a slot .* `shoal status unix:"):
        actors.main.run(f"unix:{tmp_path / 's'}")
