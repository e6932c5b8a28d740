"""A disk that is full costs figures, not the run. /dev/full has no room, ever."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.unit.test_recorder import Run

FULL = Path("/dev/full")


def test_figures_that_cannot_be_written_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path)
    run.recorder._file.close()
    run.recorder._file = FULL.open("a", buffering=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run.recorder._write({"kind": "progress", "env_steps": 1})
    run.recorder.close()
    (record,) = caplog.records
    assert "/dev/full cannot be written (No space left on device): make room; the run goes on" in record.getMessage()
