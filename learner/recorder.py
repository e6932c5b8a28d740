"""What a run leaves behind for people: metrics.jsonl, TensorBoard events, Prometheus figures, summary.json.

Called by the training thread about once a second, after every evaluation and at the end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.metrics import Metrics
from core.types import UnrollHeader
from learner.bottleneck import Verdict
from learner.exporter import Exporter
from learner.progress import Progress
from learner.status import Status

EVERY_S = 1.0
"""Seconds between two lines of progress ..."""
SHORT_RUN_S = 0.1
"""... or this, while each has at least a hundredth of the budget to tell: a run of seconds has a curve, too."""


class Recorder:
    """Writes one run directory. What a former life wrote beyond where `progress` stands now is taken back."""

    def __init__(self, run_dir: Path, progress: Progress, metrics: Metrics) -> None:
        self._run_dir, self._progress, self.metrics = run_dir, progress, metrics
        self._began_env_steps = progress.env_steps
        take_back(run_dir / "metrics.jsonl", progress.env_steps)
        self._file = (run_dir / "metrics.jsonl").open("a", buffering=1)
        self._last_s, self._last_env_steps = -EVERY_S, 0
        self._board: Any = None
        self._exporter = Exporter(metrics)
        self.figures: dict[str, float] = {}
        self.verdict = Verdict("starting", "waiting for the first unrolls")

    def tick(self, status: Callable[[], Status], *, force: bool = False) -> None:
        """Write a line of progress if one is due; `status` is asked only then.

        Before the first unrolls there is no line, and all that is known is what the services say.
        """
        progress = self._progress
        if progress.started_s is None:
            self._exporter.services(status())
            return
        if not (force or self._is_due()):
            return
        self._last_s, self._last_env_steps = progress.now_s(), progress.env_steps
        now, (rate, shares) = status(), progress.window()
        if force and not rate:
            rate = None  # the moment since the last line says nothing of the speed
        self.verdict = progress.verdict()
        self.figures = _present(
            env_steps=progress.env_steps,
            env_steps_per_s=rate,
            updates=progress.updates,
            version=progress.version,
            episodes=progress.episodes,
            mean_return=progress.mean_return,
            mean_length=progress.mean_length,
            staleness=progress.staleness,
            actors=now.actors,
            learner_wait_share=shares.learner_waits,
            actors_act_share=shares.actors_act,
        )
        line = {"kind": "progress", "wall_s": round(progress.times.wall_s, 3), **self.figures}
        self._write({**line, "bottleneck": self.verdict.part, "advice": self.verdict.advice, **progress.algorithm})
        self._exporter.run(self.figures, progress, now)
        self._to_board({**self.figures, **progress.algorithm})

    def _is_due(self) -> bool:
        progress = self._progress
        passed_s = progress.now_s() - self._last_s
        much = progress.env_steps - self._last_env_steps >= progress.budget_env_steps / 100
        return passed_s >= EVERY_S or (much and passed_s >= SHORT_RUN_S)

    def received(self, headers: Sequence[UnrollHeader]) -> None:
        """Unrolls came in."""
        self._exporter.unrolls(headers, self._progress.version)

    def evaluation(self, mean_return: float, episodes: int, took_s: float) -> None:
        """Write the line of an evaluation."""
        line = {"eval_return": mean_return, "episodes": episodes, "took_s": round(took_s, 4)}
        self._write({"kind": "evaluation", "env_steps": self._progress.env_steps, **line})
        self._to_board({"eval_return": mean_return})

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Write summary.json, atomically."""
        progress = self._progress
        document = {
            **facts,
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "version": progress.version,
            "resumes": progress.resumes,
            "episodes": progress.episodes,
            "wall_s": round(progress.times.wall_s, 3),
            "evaluation_s": round(progress.times.evaluation_s, 3),
            "env_steps_per_s": None if progress.env_steps_per_s is None else round(progress.env_steps_per_s, 1),
            "mean_return": progress.mean_return,
            "eval_return": progress.eval_return,
            "solved_at_env_steps": progress.solved_at_env_steps,
            "max_staleness": progress.max_staleness,
            "bottleneck": progress.verdict().part,
            "advice": progress.verdict().advice,
        }
        temporary = self._run_dir / ".summary.json.tmp"
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        os.replace(temporary, self._run_dir / "summary.json")

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")

    def _to_board(self, values: Mapping[str, float]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # late: it is not needed before the first second is over

            began = self._began_env_steps
            self._board = SummaryWriter(str(self._run_dir / "tensorboard"), purge_step=began + 1 if began else None)
        for name, value in values.items():
            self._board.add_scalar(name, value, self._progress.env_steps)


def take_back(path: Path, env_steps: int) -> None:
    """Remove the lines of later env steps, and one that is torn, in one step. Nothing where there are none."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _env_steps(line) <= env_steps]
    if len(kept) < len(lines):
        temporary = path.with_name(".metrics.jsonl.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)


def _env_steps(line: str) -> float:
    try:
        return float(json.loads(line)["env_steps"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _present(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
