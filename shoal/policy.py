"""Trained policies in one's own code: `shoal.load("runs/x").act(obs)`."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from core import algorithms
from core import checkpoint as checkpoints
from core.envs import clip_action
from core.errors import CheckpointError, ConfigError
from core.packing import pack
from core.plugins import import_modules
from core.rl.optim import flatten
from core.specs import EnvSpec
from core.types import Array, Task
from core.types import Policy as Act
from shoal.run_dir import RunDir


class Policy:
    """A policy as one checkpoint holds it. Made by `load`."""

    def __init__(self, source: checkpoints.Checkpoint) -> None:
        meta = source.meta
        self.path: Path = source.path
        """The checkpoint's folder."""
        self.algorithm: str = meta["algorithm"]
        self.spec: EnvSpec = EnvSpec.from_plain(meta["env_spec"])
        """What the policy observes and does."""
        self.env: str = meta["env"]
        self.env_kwargs: dict[str, Any] = dict(meta.get("env_kwargs") or {})
        self.env_wrappers: list[str] = list(meta.get("env_wrappers") or ())
        import_modules(meta.get("imports") or ())
        self.env_steps: int = int(meta["env_steps"])
        """How long it had been trained."""
        self.version: int = int(meta["version"])
        self._algorithm = algorithms.make(self.algorithm, meta["settings"])
        self._network = self._algorithm.network(self.spec)
        flatten(self._network).load(source.tensors["network"].numpy())
        self._acts: dict[bool, Act] = {}
        self._memory: Any = None

    def __repr__(self) -> str:
        return f"<Policy {self.algorithm} on {self.env} after {self.env_steps:,} env steps: {self.path}>"

    def act(self, obs: Any, *, explore: bool = False) -> Array:
        """The action for one observation [...], or the actions [B, ...] for a batch [B, ...], within the bounds.

        Greedy, unless `explore` asks for the exploration of training. Observations of several parts are given as a dict
        by the parts' names. A policy with a memory keeps it from call to call: `reset` it where an episode begins.
        Raises ValueError for another shape, NaN and inf, KeyError for a missing part.
        """
        observations = self._array(obs)
        shape = self.spec.observation.shape
        single = observations.shape == shape
        if not single and observations.shape[1:] != shape:
            raise ValueError(
                f"{self.env} has observations of shape {shape}, got {observations.shape}: "
                "give one of them, or a batch with one leading axis"
            )
        finite = np.isfinite(observations)
        if not finite.all():
            where = tuple(int(i[0]) for i in np.nonzero(~finite))
            raise ValueError(f"the observation given for {self.env} holds {observations[where]} at index {where}")
        rows = observations[None] if single else observations
        if self._memory is not None and len(self._memory) != len(rows):
            raise ValueError(
                f"the policy remembers {len(self._memory)} episodes, got {len(rows)} observations: call reset() first"
            )
        step = self.as_function(explore)(rows, self._memory)
        self._memory = step.memory
        actions = clip_action(step.action, self.spec.action)
        return np.asarray(actions[0] if single else actions)

    def reset(self) -> None:
        """Forget: the next observations begin episodes. Only policies with a memory (recurrent) need it."""
        self._memory = None

    def _array(self, obs: Any) -> Array:
        """A copy (torch wants it writable) of one observation or a batch, packed where it has several parts."""
        parts = self.spec.parts
        if not parts or not isinstance(obs, Mapping):
            return np.array(obs, self.spec.observation.dtype, order="C")
        leading = np.shape(obs[parts[0].name])
        leading = leading[: len(leading) - len(parts[0].array.shape)]
        return pack(obs, parts, self.spec.observation.size, leading)

    def as_function(self, explore: bool = False) -> Act:
        """The policy as algorithms make it: (obs [B, ...], memory) -> Step."""
        if explore not in self._acts:
            task = Task(0, 0, 1, self.version, self.env_steps, max(1, self.env_steps), explore)
            self._acts[explore] = self._algorithm.policy(self._network, task)
        return self._acts[explore]


def load(run: str | PathLike[str], checkpoint: str | PathLike[str] = "best") -> Policy:
    """The policy of a run directory: its "best" checkpoint (highest evaluation return), its "latest", or one's folder.

    Raises ConfigError where `run` is no run directory, CheckpointError where it has no usable checkpoint.
    """
    return Policy(checkpoints.read(find_checkpoint(Path(run), checkpoint)))


def find_checkpoint(run: Path, which: str | PathLike[str]) -> Path:
    """The folder of the checkpoint meant by "best", "latest" or a path (or the name of one in there)."""
    folder = RunDir(run).checkpoints
    if not run.is_dir():
        raise ConfigError(f"no run directory {run}")
    if which == "best":
        return checkpoints.best(folder)
    if which == "latest":
        return checkpoints.latest(folder)
    for path in (folder / which, Path(which)):
        if path.is_dir():
            return path
    names = ", ".join(p.name for p in checkpoints.all_in(folder)) or "none"
    raise CheckpointError(f"no checkpoint {str(which)!r} in {folder}: give best, latest or one of them ({names})")
