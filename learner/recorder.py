"""What a run leaves behind for people: metrics.jsonl, TensorBoard events, Prometheus figures, summary.json.

Called by the training thread about once a second, after every evaluation and at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.metrics import Metrics
from learner.bottleneck import Verdict
from learner.progress import Progress

EVERY_S = 1.0


class Recorder:
    """Writes one run directory."""

    def __init__(self, run_dir: Path, progress: Progress, metrics: Metrics) -> None:
        self._run_dir, self._progress, self.metrics = run_dir, progress, metrics
        self._file = (run_dir / "metrics.jsonl").open("a", buffering=1)
        self._next_s = 0.0
        self._board: Any = None
        self._seen: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.verdict = Verdict("starting", "waiting for the first unrolls")

    def tick(self, actors: int, *, force: bool = False) -> None:
        """Write a progress line if a second has passed."""
        progress = self._progress
        if progress.started_s is None or (progress.now_s() < self._next_s and not force):
            return
        self._next_s = progress.now_s() + EVERY_S
        rate, shares = progress.window()
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
            actors=actors,
            learner_wait_share=shares.learner_waits,
            actors_act_share=shares.actors_act,
        )
        line = {"kind": "progress", "wall_s": round(progress.times.wall_s, 3), **self.figures}
        self._write({**line, "bottleneck": self.verdict.part, "advice": self.verdict.advice, **progress.algorithm})
        self._export(actors)
        self._to_board({**self.figures, **progress.algorithm})

    def evaluation(self, mean_return: float, episodes: int) -> None:
        """Write the line of an evaluation."""
        env_steps = self._progress.env_steps
        self._write({"kind": "evaluation", "env_steps": env_steps, "eval_return": mean_return, "episodes": episodes})
        self.metrics.set("eval_return", mean_return)
        self._to_board({"eval_return": mean_return})

    def summary(self, facts: Mapping[str, Any]) -> None:
        """Write summary.json, atomically."""
        progress = self._progress
        document = {
            **facts,
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "version": progress.version,
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

            self._board = SummaryWriter(str(self._run_dir / "tensorboard"))
        for name, value in values.items():
            self._board.add_scalar(name, value, self._progress.env_steps)

    def _export(self, actors: int) -> None:
        progress, metrics = self._progress, self.metrics
        for name, value in _present(
            env_steps_per_s=self.figures.get("env_steps_per_s"),
            episode_return=progress.mean_return,
            episode_length=progress.mean_length,
            policy_version=progress.version,
            actors=actors,
        ).items():
            metrics.set(name, value)
        for name, total in (
            ("env_steps", progress.env_steps),
            ("episodes", progress.episodes),
            ("learner_updates", progress.updates),
            ("learner_wait_data_s", progress.times.wait_data_s),
        ):
            metrics.inc(name, max(0.0, total - self._seen.get(name, 0.0)))
            self._seen[name] = total
        for name, value in progress.algorithm.items():
            metrics.set("algorithm", value, name=name)


def _present(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
