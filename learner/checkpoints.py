"""A learner's checkpoints: when they are made, what they hold, and how a run goes on from one.

With a fixed lag they are made at reset points. Every so many rounds all environments begin anew, in uninterrupted runs
too, so what is written there decides all that comes after: params of this version and of those that actors may still
act with, the algorithm's state, counters, where drawing from the replay table stands, and the round to which the table
goes back. Others (the best, the last one) hold the params and the algorithm's state; a run that goes on from those is
another run. In async pace there is only that kind.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core import checkpoint
from core import config as configuration
from core.checkpoint import Checkpoint
from core.config import Config
from core.errors import CheckpointError, ConfigError
from core.rl.optim import Flat
from core.specs import EnvSpec
from core.types import Array, Episodes, Lag, Plan
from learner.pace import Drawing
from learner.progress import Progress

logger = logging.getLogger(__name__)
UNLIKE = ("run_dir", "replay", "replay_data_dir", "target_return", "evaluation", "faults", "network")
"""Settings that may change between two lives of a run without changing what it gives."""
STRUCTURE = ("algorithm", "env", "seed", "actors", "envs_per_actor", "policy_lag", "checkpoint")
"""Those that rounds and a replay table's rows are numbered by."""


def _shoal() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:  # a checkout on the path
        return "(not installed)"


SHOAL = _shoal()


class Version(NamedTuple):
    """Weights as they were published."""

    version: int
    env_steps: int
    params: Array


@dataclass(frozen=True)
class Start:
    """How a learner begins: with `version`, and those `published` before it that actors may still need.

    `exact`: it goes on as if it had not ended. `drawing` is then where a replay table was being drawn from.
    """

    version: int = 0
    published: tuple[Version, ...] = ()
    drawing: Drawing | None = None
    exact: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether there was a learner before this one that may have used the replay table."""
        return self.version > 0 or not self.exact

    @property
    def first_version(self) -> int:
        """The oldest one that an actor may act with."""
        return self.published[0].version if self.published else self.version


def rounds_between(config: Config, plan: Plan) -> int:
    """Rounds from one reset point to the next: `checkpoint.every_env_steps` in whole rounds. 0: there are none."""
    if not isinstance(plan.pace, Lag):
        return 0
    rows = plan.collect.max_rows if isinstance(plan.collect, Episodes) else plan.collect.rows
    return max(1, config.checkpoint.every_env_steps // (rows * config.envs_per_actor * config.actors))


class Checkpoints:
    """Of one run. Used by the training thread."""

    def __init__(
        self, config: Config, plan: Plan, folder: Path, spec: EnvSpec, flat: Flat, state: Any, progress: Progress
    ) -> None:
        self._config, self._folder, self._spec = config, folder, spec
        self._flat, self._state, self._progress = flat, state, progress
        self._lag = plan.pace.rounds if isinstance(plan.pace, Lag) else 0
        self.rounds_between = rounds_between(config, plan)
        self._published: deque[Version] = deque(maxlen=self._lag)
        self._resume: dict[str, Any] | None = None
        self._resume_version = -1

    def is_reset_point(self, version: int) -> bool:
        """Whether environments begin anew in the round of that number, and a checkpoint belongs in front of it."""
        return self.rounds_between > 0 and version % self.rounds_between == 0

    def published(self, version: int, env_steps: int, params: Array) -> None:
        """Actors may act with it from now on."""
        self._published.append(Version(version, env_steps, params))

    def reset_points(self) -> list[int]:
        """The versions that a run may have to go back to: the newest checkpoint of a reset point may be torn."""
        return checkpoint.reset_points(self._folder)[-2:]

    # ------------------------------------------------------------------------------------------------------- write

    def save(self) -> None:
        """Write one of now. Nothing before the first update. Raises CheckpointError."""
        if self._progress.updates:
            self._write()

    def save_at_reset_point(self, drawing: Drawing | None, *, exact: bool) -> None:
        """Write one that the run goes on from as if it had not ended; before this version is published.

        `exact`: it still gives what its seed always gives. Raises CheckpointError.
        """
        self._resume = {
            "exact": exact,
            "settings": _essential(self._config),
            "published": [
                {"version": v.version, "env_steps": v.env_steps, "params": torch.from_numpy(v.params)}
                for v in self._published
            ],
            "drawing": None if drawing is None else drawing.to_plain(),
            "progress": self._progress.to_plain(),  # before the evaluation that may follow
        }
        self._resume_version = self._progress.version
        self._write()

    def _write(self) -> None:
        resume = self._resume if self._resume_version == self._progress.version else None
        checkpoint.write(self._folder, self._meta(), self._flat.data, self._state.state_dict(), resume)
        checkpoint.prune(self._folder, self._config.checkpoint.keep)

    def _meta(self) -> dict[str, Any]:
        progress, config = self._progress, self._config
        return {
            "shoal": SHOAL,
            "algorithm": config.algorithm,
            "settings": dict(config.settings),
            "env": config.env,
            "env_kwargs": dict(config.env_kwargs),
            "env_wrappers": list(config.env_wrappers),
            "imports": list(config.imports),
            "env_spec": self._spec.to_plain(),
            "manifest": self._flat.manifest(),
            "seed": config.seed,
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "version": progress.version,
            "eval_return": progress.eval_return if progress.evaluated_version == progress.version else None,
            "progress": progress.to_plain(),
        }

    # -------------------------------------------------------------------------------------------------------- read

    def resume(self) -> Start:
        """Take over the newest one that is whole; with a fixed lag the newest of a reset point, if there is any.

        Raises CheckpointError where none is there or fits, and ConfigError where the budget is used up.
        """
        saved = self._chosen()
        self._check_fits(saved)
        self._flat.load(saved.tensors["network"].numpy())
        self._state.load_state_dict(saved.state)
        resume = saved.resume if self._goes_on(saved) else None
        if resume is None:
            self._progress.restore(saved.meta["progress"], exact=False)
        else:
            self._progress.restore(resume["progress"])
        if self._progress.env_steps >= self._config.env_steps:
            raise ConfigError(
                f"env_steps: the budget of {self._config.env_steps:,} is used up (the checkpoint has "
                f"{self._progress.env_steps:,}); give a larger --env-steps to go on"
            )
        print(f"resumed from {saved.path}", flush=True)
        if resume is None:
            return Start(self._progress.version, exact=False)
        published = tuple(Version(v["version"], v["env_steps"], v["params"].numpy()) for v in resume["published"])
        drawing = None if resume["drawing"] is None else Drawing.from_plain(resume["drawing"])
        return Start(self._progress.version, published, drawing, bool(resume["exact"]) and self._is_same_run(saved))

    def _chosen(self) -> Checkpoint:
        whole: list[Checkpoint] = []
        problems: list[str] = []
        for path in reversed(checkpoint.all_in(self._folder)):
            try:
                saved = checkpoint.read(path)
            except CheckpointError as error:
                problems.append(str(error))
                logger.warning("%s; it is skipped", error)
                continue
            if not self.rounds_between or self._goes_on(saved):
                return saved
            whole.append(saved)
        if not whole:
            raise CheckpointError("\n".join([f"no checkpoint in {self._folder} can be used", *problems]))
        return whole[0]

    def _goes_on(self, saved: Checkpoint) -> bool:
        """Whether it is one of a reset point that this run can go on from.

        With other settings (a larger budget, say) the newest one of all does better, but for a replay table, which goes
        back to reset points alone.
        """
        if saved.resume is None:
            return False
        now, then = _essential(self._config), saved.resume["settings"]
        names = STRUCTURE if saved.resume["drawing"] is not None else now
        return all(then.get(name) == now[name] for name in names)

    def _is_same_run(self, saved: Checkpoint) -> bool:
        same: bool = saved.resume["settings"] == _essential(self._config)
        return same

    def _check_fits(self, saved: Checkpoint) -> None:
        if saved.meta["manifest"] == self._flat.manifest():
            return
        now = self._meta()
        names = ("algorithm", "env", "env_kwargs", "env_wrappers", "env_spec", "settings")
        changed = [d for name in names for d in differences(name, saved.meta[name], _plain(now[name]))]
        what = f"{self._config.algorithm} on {self._config.env}"
        lines = "".join(f"  - {line}\n" for line in changed or ["the same settings make other shapes in this version"])
        raise CheckpointError(
            f"{saved.path}, of Shoal {saved.meta['shoal']}, holds another network than {what} makes now with "
            f"Shoal {SHOAL}:\n{lines}"
            "leave out what was changed, or start a new run"
        )


def differences(name: str, saved: Any, now: Any) -> list[str]:
    """What is not the same in two plain values, by dotted names: "name: saved -> now"."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        names = sorted({*saved, *now})
        return [d for key in names for d in differences(f"{name}.{key}", saved.get(key), now.get(key))]
    told = ("not set" if value is None else value for value in (saved, now))
    return [] if saved == now else [f"{name}: {' -> '.join(map(str, told))}"]


def _essential(config: Config) -> dict[str, Any]:
    """What decides a run's weights."""
    plain = configuration.to_plain(config)
    plain["checkpoint"] = plain["checkpoint"]["every_env_steps"]
    return {name: _plain(value) for name, value in plain.items() if name not in UNLIKE}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
