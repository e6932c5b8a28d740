"""Writes docs/scores.md and its pictures from the results at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from benchmarks.figures import median
from benchmarks.scores.results import Results, good, verdict
from benchmarks.scores.rows import GROUPS, RANDOM_RETURN, ROWS, SOURCES, Row, Score
from benchmarks.scores.run import Run
from shoal.plots import COLOURS, GREY, STYLE

HEAD = """# Scores

<!-- Written by `python -m benchmarks.scores`. Do not edit. -->

What `shoal train --algorithm NAME --env ID` reaches with the preset that it picks up by itself: greedy evaluation over
100 episodes after the stated env steps, or the env steps at which an evaluation of 20 episodes first reached a target.
A bar is the peers' published mean at the same env steps minus its standard deviation; where none was published, minus
a tenth of the way to a random policy. Figures of peers are published ones, for LunarLander-v2 and MuJoCo v4 or older.
Curves are training returns, which explore: the median of the seeds and the band from worst to best (a run that ended
at its target keeps its last value) over a random policy's return (dotted). Wall times say little: runs may have
shared the machine. Presets were tuned on the same environments and on some of the same seeds.

```sh
make bench-scores                               # all groups; what docs/scores.json has is not run again
python -m benchmarks.scores classic --seeds 3   # one group, fewer seeds
python -m benchmarks.scores page                # this page again
python -m benchmarks.scores peers               # Stable-Baselines3's a2c on LunarLander-v3
```
"""
COLUMNS = ("algorithm", "environment", "env steps", "seeds", "median (worst to best)", "bar", "holds", "peers", "wall")


def write(results: Results, page: Path, images: Path, of_peers: str = "") -> None:
    """The page, and one picture for each environment that was run. `of_peers`: what was measured of theirs here."""
    parts = [HEAD, *(f"- {name}: {text}." for name, text in SOURCES.items()), ""]
    for group in GROUPS:
        rows = [row for row in ROWS if row.group == group]
        parts += [f"## {group}\n", _table(rows, results)]
        for env in dict.fromkeys(row.env for row in rows):
            picture = _draw(env, [row for row in rows if row.env == env], results, images)
            if picture is not None:
                parts.append(f"![{env}]({images.name}/{picture})\n")
    parts += [of_peers] if of_peers else []
    page.write_text("\n".join(parts), encoding="utf-8")


def _table(rows: Sequence[Row], results: Results) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row, results.get(row.id, ())))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row, runs: Sequence[Run]) -> Iterator[str]:
    found = verdict(row, runs)
    with_ = "" if isinstance(row, Score) or not row.settings else f" ({', '.join(row.settings)})"
    yield f"{row.algorithm}{with_}"
    yield row.env
    yield f"{row.env_steps:,}"
    yield f"{len(runs)} of {row.seeds}"
    yield found.reached
    yield found.bar
    yield "-" if found.holds is None else "yes" if found.holds else "**no**"
    yield f"{row.published:g} ({row.source})" if isinstance(row, Score) else row.source
    wall_s = median([run["wall_s"] for run in good(runs)])
    yield "-" if wall_s is None else f"{wall_s:,.0f} s"


def _draw(env: str, rows: Sequence[Row], results: Results, images: Path) -> str | None:
    """A panel for each algorithm that was run."""
    curves = {row.algorithm: [run["curve"] for run in good(results.get(row.id, ())) if run["curve"]] for row in rows}
    curves = {algorithm: lines for algorithm, lines in curves.items() if lines}
    if not curves:
        return None
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        columns = min(len(curves), 4)
        rows_of_panels = -(-len(curves) // columns)
        figure = Figure(figsize=(1 + 2.6 * columns, 0.5 + 2.2 * rows_of_panels), layout="constrained")
        panels = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False).flatten()
        for axes, (algorithm, lines) in zip(panels, curves.items(), strict=False):
            _panel(axes, f"{algorithm}, {len(lines)} seeds", lines, RANDOM_RETURN[env])
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        figure.suptitle(env)
        figure.supxlabel("env steps", fontsize="medium")
        figure.supylabel("return of an episode", fontsize="medium")
        name = f"scores-{env.replace('/', '-')}.png"
        images.mkdir(exist_ok=True)
        figure.savefig(images / name, dpi=110)
    return name


def _panel(axes: Axes, title: str, lines: Sequence[Sequence[Sequence[float]]], random_return: float) -> None:
    """The median of the runs, the band from worst to best, and a random policy's return."""
    grid = np.linspace(min(line[0][0] for line in lines), max(line[-1][0] for line in lines), 60)
    values = np.stack([np.interp(grid, *np.array(line).T) for line in lines])
    axes.fill_between(grid, values.min(0), values.max(0), color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(grid, np.median(values, 0), color=COLOURS[0])
    axes.axhline(random_return, color=GREY, linewidth=1, linestyle=":")
    axes.set_title(title, fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
