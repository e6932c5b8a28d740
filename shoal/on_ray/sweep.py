"""`shoal sweep`: a search over settings with Ray Tune. Each trial is a run on one node; the best is named."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Config, to_plain
from core.errors import ConfigError, ShoalError
from shoal import settings, training
from shoal.on_ray import cluster, trial
from shoal.on_ray.driver import needs_of
from shoal.on_ray.space import Choice, Dimension, first_of, parse
from shoal.on_ray.sweep_report import Trial, write
from shoal.run_dir import RunDir, remove_run

SCORE = "mean_return"
PARTS = 10
"""Of the budget: after each asha may stop a trial, and pbt let it go on with another one's params."""
REDUCTION = 3


@dataclasses.dataclass(frozen=True)
class Search:
    """How to look, how often, and how many trials at a time; 0: as many as the cluster has room for."""

    kind: str = "random"
    trials: int = 8
    at_once: int = 0

    def check(self) -> None:
        """Raise ConfigError with every problem."""
        problems = [
            f"--{name} {value}: at least {low} is needed"
            for name, value, low in (("trials", self.trials, 1), ("at-once", self.at_once, 0))
            if value < low
        ]
        if self.kind == "pbt" and self.trials < 2:
            problems.append(f"--trials {self.trials}: a population (pbt) has at least 2")
        ConfigError.raise_if(problems)


def run(
    file: Path | None,
    flags: Mapping[str, Any],
    sets: Sequence[str],
    vary: Sequence[str],
    search: Search,
    *,
    address: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Run all trials, write table and plot; returns the sweep's folder. Raises ConfigError before anything starts."""
    search.check()
    dimensions = parse(vary, search.kind)
    config, place = training.set_up(file, flags, sets, overwrite=overwrite)
    if overwrite:
        _remove_trials(place.path)
    with training.undone_if_refused(place, resume=False):
        if search.kind in ("asha", "pbt"):
            config = _in_parts(config)
        training.write_config(config, place)
        for values in first_of(dimensions):
            needs_of(settings.read(place.config, {}, more=values))
        with cluster.connected(address):
            cpus = needs_of(config).cpus
            cluster.check_trials(cpus, search.trials if search.kind == "pbt" else 1)
            results = _fit(config, place.path.absolute(), dimensions, search, cpus)
        trials = [_trial_of(result, dimensions) for result in results]
        write(trials, place.path, f"{config.algorithm} on {config.env}: {search.kind} search")
    if all(trial.error for trial in trials):
        raise ShoalError(f"all {len(trials)} trials failed, the first with: {trials[0].error}")
    return place.path


def _in_parts(config: Config) -> Config:
    """A checkpoint in every part of the budget; in async pace they are made by the clock."""
    every = max(1, config.env_steps // PARTS)
    often = dataclasses.replace(config.checkpoint, every_env_steps=every, every_s=min(config.checkpoint.every_s, 5.0))
    return dataclasses.replace(config, checkpoint=often)


def _fit(config: Config, folder: Path, dimensions: Sequence[Dimension], search: Search, cpus: int) -> Any:
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    random.seed(config.seed)  # what pbt explores with
    np.random.seed(config.seed % (1 << 32))
    space = {dimension.name: _domain(dimension, grid=search.kind == "grid") for dimension in dimensions}
    one = functools.partial(
        trial.run,
        base=to_plain(config),
        folder=str(folder / "trials"),
        cwd=os.getcwd(),
        keeps=search.kind == "pbt",
    )
    tuner = tune.Tuner(
        tune.with_resources(one, {"cpu": cpus}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=1 if search.kind == "grid" else search.trials,
            search_alg=BasicVariantGenerator(random_state=config.seed, max_concurrent=search.at_once),
            scheduler=_scheduler(search.kind, config, space),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    return tuner.fit()


def _domain(dimension: Dimension, *, grid: bool) -> Any:
    from ray import tune

    if isinstance(dimension, Choice):
        values = list(dimension.values)
        return tune.grid_search(values) if grid else tune.choice(values)
    low, high = dimension.low, dimension.high
    if dimension.is_whole:
        whole = tune.lograndint if dimension.log else tune.randint
        return whole(int(low), int(high) + 1)
    return (tune.loguniform if dimension.log else tune.uniform)(low, high)


def _scheduler(kind: str, config: Config, space: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    part = max(1, config.env_steps // PARTS)
    if kind == "asha":
        return ASHAScheduler("env_steps", max_t=config.env_steps, grace_period=part, reduction_factor=REDUCTION)
    if kind == "pbt":
        return PopulationBasedTraining("env_steps", perturbation_interval=part, hyperparam_mutations=dict(space))
    return FIFOScheduler()


def _trial_of(result: Any, dimensions: Sequence[Dimension]) -> Trial:
    metrics, frame = result.metrics or {}, result.metrics_dataframe
    curve = []
    if frame is not None and {"env_steps", SCORE} <= set(frame):
        curve = [(int(x), float(y)) for x, y in zip(frame["env_steps"], frame[SCORE], strict=True) if y == y]
    values = {dimension.name: result.config[dimension.name] for dimension in dimensions}
    error = "" if result.error is None else str(result.error).strip().splitlines()[-1]
    return Trial(str(metrics.get("trial_id", "?")), values, curve, metrics.get("eval_return"), error)


def _remove_trials(folder: Path) -> None:
    """Those of the sweep before, with what Tune kept."""
    for path in (folder / "trials").glob("*/"):
        remove_run(RunDir(path))
        with contextlib.suppress(OSError):
            path.rmdir()
    shutil.rmtree(folder / "tune", ignore_errors=True)
