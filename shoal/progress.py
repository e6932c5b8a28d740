"""What a run's metrics.jsonl says about its state: read as it grows, summed up for the views and the plots."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class Tail:
    """Reads a growing file of JSON lines; a line still being written is left for the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None
        self.replaced = 0
        """How often another file took its place: all of that one is read."""

    def read(self) -> list[Record]:
        """The records added since the last call."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if self._inode not in (None, inode):
                    self._offset = 0
                    self.replaced += 1
                self._inode = inode
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [record for line in whole.splitlines() if (record := _parse(line)) is not None]


def _parse(line: bytes) -> Record | None:
    """One record; None for a line that a killed process left in pieces."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@dataclass
class Progress:
    """Where a run stands. Figures that do not exist yet are None, never NaN."""

    algorithm: str
    env: str
    budget_env_steps: int
    target_return: float | None = None
    page: str | None = None
    """Where the learner's web page is."""
    wall_s: float = 0.0
    env_steps: int = 0
    env_steps_per_s: float | None = None
    updates: int = 0
    version: int = 0
    episodes: int = 0
    mean_return: float | None = None
    staleness: float | None = None
    actors: int = 0
    bottleneck: str | None = None
    advice: str | None = None
    eval_return: float | None = None
    eval_env_steps: int | None = None
    seated: Mapping[str, Any] | None = None
    """`pids` of actors on the learner's host that have a seat, as the learner with the pid `by` says."""
    returns: list[float] = field(default_factory=list)
    """Every mean_return so far, in order."""
    records: int = 0
    _replaced: int = 0

    def take(self, records: Iterable[Record], replaced: int = 0) -> None:
        """Bring the state up to date. `replaced` counts how often all records were read anew."""
        if replaced > self._replaced:
            self._replaced = replaced
            self.returns.clear()
        for record in records:
            self.records += 1
            if record.get("kind") == "evaluation":
                self.eval_return, self.eval_env_steps = record["eval_return"], record["env_steps"]
                self.env_steps = max(self.env_steps, record["env_steps"])
            elif record.get("kind") == "progress":
                for name in _PROGRESS_FIELDS:
                    if name in record:
                        setattr(self, name, record[name])
                if record.get("mean_return") is not None:
                    self.returns.append(record["mean_return"])

    @property
    def share(self) -> float:
        """Used part of the budget, in [0, 1]."""
        return min(1.0, self.env_steps / self.budget_env_steps) if self.budget_env_steps else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the budget is used up at the present speed."""
        if not self.env_steps_per_s:
            return None
        return max(0, self.budget_env_steps - self.env_steps) / self.env_steps_per_s


_PROGRESS_FIELDS = (
    "wall_s",
    "env_steps",
    "env_steps_per_s",
    "updates",
    "version",
    "episodes",
    "mean_return",
    "staleness",
    "actors",
    "seated",
    "bottleneck",
    "advice",
)
