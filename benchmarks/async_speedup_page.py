"""Writes docs/async-speedup.md and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.figures import median
from shoal.plots import COLOURS, GREY, STYLE

Run = Mapping[str, Any]
"""head, actors, seed; env_steps, seconds and staleness where the score was reached."""

ACTORS = (1, 2, 4, 8)
HEADS = ("actor_critic", "q")
LEAST_SHARE = 0.7
"""Of linear, at eight actors."""
SETTINGS: Mapping[str, Sequence[str]] = {
    "actor_critic": ("a3c.learning_rate=3e-3", "a3c.anneal_learning_rate=false"),
    "q": (
        "a3c.learning_rate=1e-3",
        "a3c.anneal_learning_rate=false",
        "a3c.gamma=0.9",
        "a3c.target_update_interval=500",
        "a3c.epsilon_anneal_env_steps=5000",
    ),
}
PAPER = {"A3C, paper": (1.0, 2.1, 3.7, 6.9), "one-step Q, paper": (1.0, 3.0, 6.3, 13.3)}
"""Mnih 2016, Table 2: mean speed-up over seven Atari games, by threads."""

PAGE = """# Speed-up by asynchronous actors

<!-- Written by `python -m benchmarks.async_speedup`. Do not edit. -->

How much sooner `a3c` reaches {target:g} in a greedy evaluation of ten episodes of CartPole with more actors, each with
one environment whose step sleeps {step_ms:g} ms: computing is not what limits it, so the number of cores is not,
either. All actors start together; seconds leave evaluations out, and are medians over the seeds. `make bench-async`
measures it; `docs/async-speedup.json` has every run. The paper's figures (Mnih 2016, Table 2) are means over seven
Atari games on one machine's threads.

{table}
![Speed-up by number of actors](images/async-speedup.png)

The settings were chosen, on other seeds than the reported ones. About ten were tried for head q; most of the others did
not reach the score reliably with eight actors, several not with one. The score is a greedy evaluation because an
actor's training return depends on the epsilon that it drew.

A speed-up above linear is no error: more actors explore more widely at once, so fewer env steps may do; the paper sees
it for one-step Q-learning. Below linear the reverse holds: gradients are staler (staleness counts the updates between
the version a gradient was computed at and the one it was applied to).
"""


def speedup(runs: Sequence[Run], head: str) -> dict[int, float | None]:
    """Actors -> how many times sooner than one actor, by medians over the seeds; None where it was never reached."""
    times = {actors: median(_values(runs, head, actors, "seconds")) for actors in ACTORS}
    alone = times[1]
    return {actors: None if found is None or alone is None else alone / found for actors, found in times.items()}


def write(runs: Sequence[Run], file: Path, step_s: float, target: float) -> None:
    """The page and the picture."""
    found = {head: speedup(runs, head) for head in HEADS}
    file.write_text(PAGE.format(target=target, step_ms=1000 * step_s, table=_table(runs, found)), encoding="utf-8")
    _draw(found, file.parent / "images" / "async-speedup.png")


def _table(runs: Sequence[Run], found: Mapping[str, Mapping[int, float | None]]) -> str:
    lines = ["| what | " + " | ".join(f"{actors} actor{'s' * (actors > 1)}" for actors in ACTORS) + " |"]
    lines.append("|---|" + "---|" * len(ACTORS))
    for head in HEADS:
        seeds = len({run["seed"] for run in runs if run["head"] == head})
        lines.append(_row(f"head {head}: speed-up, {seeds} seeds", [found[head][a] for a in ACTORS], "{:.1f}"))
        for name, form in (("seconds", "{:.1f}"), ("env_steps", "{:,.0f}"), ("staleness", "{:.1f}")):
            values = [median(_values(runs, head, actors, name)) for actors in ACTORS]
            lines.append(_row(f"head {head}: {name}", values, form))
    lines += [_row(name, values, "{:.1f}") for name, values in PAPER.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float | None], form: str) -> str:
    return f"| {name} | " + " | ".join("never" if value is None else form.format(value) for value in values) + " |"


def _values(runs: Sequence[Run], head: str, actors: int, name: str) -> list[float | None]:
    return [run.get(name) for run in runs if (run["head"], run["actors"]) == (head, actors)]


def _draw(found: Mapping[str, Mapping[int, float | None]], file: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        axes.plot(ACTORS, ACTORS, color=GREY, linestyle=":", linewidth=1, label="linear")
        axes.plot(ACTORS, [LEAST_SHARE * n for n in ACTORS], color=GREY, linewidth=1, label="0.7 of linear")
        for (name, values), colour in zip(PAPER.items(), COLOURS, strict=False):
            axes.plot(ACTORS, values, color=colour, linestyle="--", marker="o", markersize=4, label=name)
        for (head, times), colour in zip(found.items(), COLOURS, strict=False):
            reached = {actors: value for actors, value in times.items() if value is not None}
            axes.plot([*reached], [*reached.values()], color=colour, marker="o", label=f"a3c, head {head}")
        axes.set_xticks(ACTORS)
        axes.set_title("Speed-up to a fixed score")
        axes.set_xlabel("actors")
        axes.set_ylabel("times as fast as one actor")
        axes.legend(loc="upper left")
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=110)
