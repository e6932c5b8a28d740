"""What a run tells people: metrics.jsonl, TensorBoard events, Prometheus figures, its web page, summary.json.

Called by the training thread about once a second, after every evaluation and at the end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.metrics import Metrics
from core.types import UnrollHeader
from learner.bottleneck import Verdict
from learner.exporter import RUN_TOTALS, Exporter
from learner.page import Page
from learner.progress import Progress
from learner.status import Status

LOG_EVERY_S = 10.0
"""Seconds between two lines of the log: what `docker compose up` shows of a run."""
EVERY_S = 1.0
"""Seconds between two lines of progress ..."""
SHORT_RUN_S = 0.1
"""... or this, while each has at least a hundredth of the budget to tell: a run of seconds has a curve, too."""

logger = logging.getLogger(__name__)


class Recorder:
    """Writes one run directory. What a former life wrote beyond where `progress` stands now is taken back."""

    def __init__(
        self,
        run_dir: Path,
        progress: Progress,
        metrics: Metrics,
        page: Page | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._run_dir, self._progress, self.metrics, self._page = run_dir, progress, metrics, page
        self._began_env_steps = progress.env_steps
        take_back(run_dir / "metrics.jsonl", progress.env_steps)
        self._told_full = False
        self._seated: list[int] | None = None
        self._file = (run_dir / "metrics.jsonl").open("a", buffering=1)
        if page is not None:
            page.read((run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        self._last_s, self._last_env_steps, self._logged_s = -EVERY_S, 0, -LOG_EVERY_S
        self._board: Any = None
        self.exporter = Exporter(metrics, run_dir, device, {name: getattr(progress, name) for name in RUN_TOTALS})
        self.figures: dict[str, float] = {}
        self.verdict = Verdict("starting", "waiting for the first unrolls")

    def tick(self, status: Callable[[], Status], *, force: bool = False) -> None:
        """Write a line of progress if one is due; `status` is asked only then.

        Before the first unrolls there is no line, and all that is known is what the services say.
        """
        progress = self._progress
        if progress.started_s is None:
            now = status()
            self.exporter.services(now)
            self._tell_page(now)
            return
        if not (force or self._is_due()):
            return
        self._last_s, self._last_env_steps = progress.now_s(), progress.env_steps
        now, (rate, shares) = status(), progress.window()
        if force and not rate:
            rate = None  # the moment since the last line says nothing of the speed
        self.verdict = progress.verdict_of_late()
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
        curves = {**self.figures, **_present(table_fill=now.table_fill), **progress.algorithm}
        line = {"kind": "progress", "wall_s": round(progress.times.wall_s, 3), **curves, **self._changed_seats(now)}
        self._tell_page(now)
        self._write({**line, "bottleneck": self.verdict.part, "advice": self.verdict.advice})
        self.exporter.run(self.figures, progress, now)
        self.exporter.bottleneck(self.verdict.part)
        self._log(force)
        self._to_board(curves)

    def _changed_seats(self, now: Status) -> dict[str, Any]:
        """The processes of this host that have seats, where others had them in the line before.

        A launcher finds those that hang. It wants to know of which learner's life that is.
        """
        pids = [seated.pid for seated in now.seated if seated.host == socket.gethostname()]
        changed = pids != self._seated
        self._seated = pids
        return {"seated": {"by": os.getpid(), "pids": pids}} if changed else {}

    def _tell_page(self, now: Status) -> None:
        if self._page is not None:
            self._page.status(now)

    def _log(self, force: bool) -> None:
        if not force and self._last_s - self._logged_s < LOG_EVERY_S:
            return
        self._logged_s, figures = self._last_s, self.figures
        told = [f"{self._progress.env_steps:,} of {self._progress.budget_env_steps:,} env steps"]
        if "env_steps_per_s" in figures:
            told.append(f"{figures['env_steps_per_s']:,.0f}/s")
        if "mean_return" in figures:
            told.append(f"return {figures['mean_return']:.1f}")
        logger.info("%s, %d actors, %s-bound", ", ".join(told), figures.get("actors", 0), self.verdict.part)

    def _is_due(self) -> bool:
        progress = self._progress
        passed_s = progress.now_s() - self._last_s
        much = progress.env_steps - self._last_env_steps >= progress.budget_env_steps / 100
        return passed_s >= EVERY_S or (much and passed_s >= SHORT_RUN_S)

    def received(self, headers: Sequence[UnrollHeader]) -> None:
        """Unrolls came in."""
        self.exporter.unrolls(headers, self._progress.version)

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
        with contextlib.suppress(OSError):  # as above
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            self._file.write(line)
        except OSError as error:  # what is in the buffer is written when there is room
            if not self._told_full:
                logger.warning("%s cannot be written (%s): make room; the run goes on", self._file.name, error.strerror)
            self._told_full, self._seated = True, None
        if self._page is not None:
            self._page.record(record)

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
