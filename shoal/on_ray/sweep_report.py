"""What came of a sweep: a table, sweep.json and sweep.png. Pure but for the files; no Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal import plots
from shoal.live import number

if TYPE_CHECKING:
    from rich.console import Console

NAMED = 5
"""Trials with a line of their own in the plot's legend; the others are grey."""


@dataclass(frozen=True)
class Trial:
    """One trial: its settings, `curve` as pairs of env steps and return, and why it failed, where it did."""

    id: str
    values: Mapping[str, Any]
    curve: Sequence[tuple[int, float]]
    eval_return: float | None
    error: str = ""

    @property
    def env_steps(self) -> int:
        """How far it came."""
        return max((x for x, _ in self.curve), default=0)

    @property
    def score(self) -> float | None:
        """The newest mean return of training."""
        return self.curve[-1][1] if self.curve else None


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; those that failed or never finished an episode last."""
    return sorted(trials, key=lambda t: (bool(t.error), t.score is None, -(t.score or 0.0)))


def write(trials: Sequence[Trial], folder: Path, title: str) -> None:
    """Write sweep.json and sweep.png, and print the table."""
    trials = ranked(trials)
    document = [{**dataclasses.asdict(t), "env_steps": t.env_steps, "mean_return": t.score} for t in trials]
    (folder / "sweep.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(trials, folder / "sweep.png", title)
    show(trials, folder)


def show(trials: Sequence[Trial], folder: Path, console: Console | None = None) -> None:
    """Print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = list(trials[0].values) if trials else []
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("trial")
    for name in [*names, "env steps", "return", "evaluation"]:
        table.add_column(name, justify="right")
    for trial in trials:
        score = trial.error or ("-" if trial.score is None else number(trial.score))
        evaluation = "-" if trial.eval_return is None else number(trial.eval_return)
        table.add_row(trial.id, *map(text, trial.values.values()), f"{trial.env_steps:,}", score, evaluation)
    console = console or Console()
    console.print(table)
    best = trials[0] if trials and not trials[0].error else None
    if best is not None:
        flags = " ".join(f"{name}={text(value)}" for name, value in best.values.items())
        console.print(f"best: --set {flags}", soft_wrap=True, highlight=False)
    console.print(f"{folder / 'sweep.json'}, {folder / 'sweep.png'}, runs in {folder / 'trials'}/", soft_wrap=True)


def draw(trials: Sequence[Trial], out: Path, title: str) -> Path:
    """Returns against env steps, a line a trial."""
    with plots.style():
        figure, (axes,) = plots.new_figure(rows=1)
        for place, trial in reversed(list(enumerate(trials))):
            if not trial.curve:
                continue
            label = ", ".join(f"{name.rpartition('.')[2]} {text(value)}" for name, value in trial.values.items())
            colour = plots.colours(NAMED)[place] if place < NAMED else plots.GREY
            env_steps, returns = zip(*trial.curve, strict=True)
            axes.plot(env_steps, returns, color=colour, label=label if place < NAMED else None, alpha=0.9)
        axes.set_title(title)
        axes.set_ylabel("return of an episode")
        axes.set_xlabel("env steps")
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles[::-1], labels[::-1], loc="best", fontsize=8)
        return plots.save(figure, out)


def text(value: Any) -> str:
    """A setting's value, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
