"""An actor says once how many acknowledged rows its server has lost."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.main import Actor


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
