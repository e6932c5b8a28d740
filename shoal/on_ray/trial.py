"""One trial of a sweep: an ordinary run on one node, whose figures Ray Tune is told. Called by Tune, in its worker.

Where Tune stops a trial, or lets it go on from another one's checkpoint (pbt), its worker and the processes end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import checkpoint, yaml12
from core.config import Config
from core.errors import CheckpointError
from shoal import settings
from shoal.launch import Launch
from shoal.progress import Progress
from shoal.run_dir import prepare, release
from shoal.training import RunResult, write_config

FIGURES = ("env_steps", "mean_return", "env_steps_per_s")


def run(values: Mapping[str, Any], *, base: Mapping[str, Any], folder: str, cwd: str, keeps: bool) -> None:
    """Train with `values` over the plain settings `base`: the node may not see the driver's files.

    With `keeps` Tune gets every checkpoint.
    """
    from ray import tune

    if os.path.isdir(cwd):
        os.chdir(cwd)
    path = Path(folder) / str(tune.get_context().get_trial_id())
    config = settings_of(base, path, values)
    former = tune.get_checkpoint()
    if former is not None:
        _take_over(path, former)
    place = prepare(path, resume=former is not None)
    try:
        write_config(config, place)
        Launch(config, place, _Report(place.checkpoints if keeps else None), resume=former is not None).run()
    finally:
        release(place)
    result = RunResult.read(place.path)
    _tell({name: getattr(result, name) for name in FIGURES} | {"eval_return": result.eval_return}, None)


def settings_of(base: Mapping[str, Any], path: Path, values: Mapping[str, Any]) -> Config:
    """The run's settings at `path`. Raises ConfigError with every problem."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.yaml"
        file.write_text(yaml12.dump(base), encoding="utf-8")
        return settings.read(file, {"run_dir": str(path)}, more=values)


def _take_over(path: Path, former: Any) -> None:
    """Put another trial's checkpoint, or this one's newest, in place of those in the run directory."""
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    with former.as_directory() as source:
        shutil.copytree(source, path / "checkpoints")
    (path / "config.yaml").touch()


class _Report:
    """The launcher's view: new figures go to Tune."""

    def __init__(self, checkpoints: Path | None) -> None:
        self._checkpoints = checkpoints
        self._records = 0
        self._told: Path | None = None

    def update(self, progress: Progress) -> None:
        """With checkpoints kept, only together with a new one: pbt copies the newest figures' params."""
        if progress.records == self._records or progress.mean_return is None:
            return
        newest = None
        if self._checkpoints is not None:
            with contextlib.suppress(CheckpointError):
                newest = checkpoint.latest(self._checkpoints)
            if newest is None or newest == self._told:
                return
        self._records, self._told = progress.records, newest
        _tell({name: getattr(progress, name) for name in FIGURES}, newest)

    def note(self, text: str) -> None:
        """Into the worker's log."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing."""


def _tell(figures: Mapping[str, Any], newest: Path | None) -> None:
    from ray import tune

    told = {name: value for name, value in figures.items() if value is not None}
    if newest is None:
        tune.report(told)
        return
    with tempfile.TemporaryDirectory() as folder:  # under its own name, which says env_steps
        shutil.copytree(newest, Path(folder) / newest.name)
        tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))
