"""Pictures of runs: the learning curve of one, the comparison of many. Drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from core.errors import ConfigError
from shoal.progress import Record, Tail
from shoal.run_dir import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = NDArray[np.float64]
BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9730d", "#2f855a", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, "#8b3fa0", "#b8860b", "#c0392b", "#16808a", "#555b66")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12.0,
    "grid.color": "#e6e8eb",
    "font.size": 10.0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """What one run's files say, ready to draw. Arrays of pairs [n, 2]: env steps and value."""

    algorithm: str
    env: str
    seed: int
    target_return: float | None
    returns: Line
    evaluations: Line
    speeds: Line

    @property
    def main(self) -> Line:
        """Evaluation returns where there are at least two, else training returns."""
        return self.evaluations if len(self.evaluations) > 1 else self.returns


def read_curve(path: Path) -> Curve:
    """Read a run directory. Raises ConfigError where there is nothing to draw."""
    run = RunDir(path)
    records = Tail(run.metrics).read()
    if not records:
        raise ConfigError(f"{path} has nothing to draw: no figures in {run.metrics.name}; is it a run directory?")
    settings: Mapping[str, Any] = yaml.safe_load(run.config.read_text()) if run.config.is_file() else {}
    target = settings.get("target_return")
    return Curve(
        algorithm=str(settings.get("algorithm", "?")),
        env=_env_name(settings),
        seed=int(settings.get("seed", 0)),
        target_return=None if target is None else float(target),
        returns=_pairs(records, "progress", "mean_return"),
        evaluations=_pairs(records, "evaluation", "eval_return"),
        speeds=_pairs(records, "progress", "env_steps_per_s"),
    )


def _env_name(settings: Mapping[str, Any]) -> str:
    env = settings.get("env", "?")
    return str(env.get("id", "?") if isinstance(env, Mapping) else env)


def _pairs(records: Sequence[Record], kind: str, name: str) -> Line:
    """env_steps and value of the records that have it, by env_steps; a resumed run's later record wins."""
    found = {int(r["env_steps"]): float(r[name]) for r in records if r.get("kind") == kind and r.get(name) is not None}
    return np.array(sorted(found.items()), np.float64).reshape(-1, 2)


def draw_learning_curve(path: Path, out: Path | None = None) -> Path:
    """Draw one run: returns against env steps, and the speed below. Returns the PNG's path."""
    curve = read_curve(path)
    with style():
        return save(_learning_curve(curve), out or RunDir(path).learning_curve)


def draw_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Draw several runs: for each algorithm and environment the median of its runs and the band from worst to best."""
    curves = [read_curve(path) for path in paths]
    with style():
        return save(_comparison(curves), out)


def _learning_curve(curve: Curve) -> Figure:
    figure, (above, below) = new_figure(rows=2)
    if len(curve.returns):
        above.plot(*curve.returns.T, color=BLUE, label="training")
    if len(curve.evaluations):
        above.plot(*curve.evaluations.T, color=ORANGE, marker="o", markersize=4, label="greedy evaluation")
    _draw_target(above, curve.target_return)
    above.set_title(f"{curve.algorithm} on {curve.env}, seed {curve.seed}")
    above.set_ylabel("return of an episode")
    if above.lines:
        above.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    below.fill_between(*curve.speeds.T, color=GREEN, alpha=0.15, linewidth=0)
    below.plot(*curve.speeds.T, color=GREEN)
    below.set_ylabel("env steps/s")
    below.set_ylim(bottom=0)
    below.set_xlabel("env steps")
    return figure


def _comparison(curves: Sequence[Curve]) -> Figure:
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.algorithm, curve.env), []).append(curve)
    figure, (axes,) = new_figure(rows=1)
    envs = sorted({env for _, env in groups})
    for colour, ((algorithm, env), members) in zip(colours(len(groups)), sorted(groups.items()), strict=True):
        env_steps, low, middle, high = band([c.main for c in members])
        name = algorithm if len(envs) == 1 else f"{algorithm} on {env}"
        axes.plot(env_steps, middle, color=colour, label=f"{name}, {_runs(len(members))}")
        axes.fill_between(env_steps, low, high, color=colour, alpha=0.2, linewidth=0)
    targets = {c.target_return for c in curves}
    _draw_target(axes, targets.pop() if len(targets) == 1 else None)
    axes.set_title(f"{' and '.join(envs)}: median, worst to best shaded")
    axes.set_ylabel("return of an episode")
    axes.set_xlabel("env steps")
    axes.legend(loc="best")  # inside: several names are wider than what the title leaves
    return figure


def band(lines: Sequence[Line], points: int = 200) -> tuple[Line, Line, Line, Line]:
    """env_steps, minimum, median and maximum over the lines, interpolated where all of them have values."""
    lines = [line for line in lines if len(line)]
    if not lines:
        empty = np.zeros(0)
        return empty, empty, empty, empty
    first, last = max(line[0, 0] for line in lines), min(line[-1, 0] for line in lines)
    env_steps = np.linspace(first, max(first, last), points)
    values = np.stack([np.interp(env_steps, *line.T) for line in lines])
    return env_steps, values.min(0), np.median(values, 0), values.max(0)


def style() -> AbstractContextManager[None]:
    """What all plots have in common, while one is drawn."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def new_figure(rows: int) -> tuple[Figure, list[Axes]]:
    """A figure with one wide panel, and with two rows a lower one for the speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.4 if rows == 2 else 4.6), dpi=150, layout="constrained")
    ratios = {"height_ratios": [3, 1]} if rows == 2 else {}
    axes: list[Axes] = list(figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0])
    for panel in axes:
        panel.set_xmargin(0.01)
        panel.xaxis.set_major_formatter(_short)
        panel.yaxis.set_major_formatter(_short)
    return figure, axes


def _draw_target(axes: Axes, target: float | None) -> None:
    if target is not None:
        axes.axhline(target, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"target {target:g}", (0.005, target), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", color=GREY, fontsize=9,
        )  # fmt: skip


def save(figure: Figure, out: Path) -> Path:
    """Write the PNG. Raises ConfigError where the path cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    try:
        FigureCanvasAgg(figure).print_figure(str(out))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the plot to {out}: {error}; choose another --out") from None
    return out


def _short(value: float, _: float = 0.0) -> str:
    """12500 as 12.5k."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def colours(count: int) -> list[str]:
    """So many colours, in order."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
