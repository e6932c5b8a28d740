"""What a person sees while a run trains: a panel that renews itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import termios
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from shoal.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINE_EVERY_S = 5.0
PANEL_EVERY_S = 0.25
WAITING = "starting: the learner prepares the network, the actors their environments"
_SPARKS = "▁▂▃▄▅▆▇█"


class View(Protocol):
    """Shows a run's progress. Used from the supervising thread alone."""

    def update(self, progress: Progress) -> None:
        """Called often; shows what is due."""
        ...

    def note(self, text: str) -> None:
        """Something happened that must be seen: a restart, a warning."""
        ...

    def close(self) -> None:
        """Show the last state and leave the screen in order."""
        ...


def make_view(run_dir: Path, *, quiet: bool = False) -> View:
    """The view that fits standard output."""
    if quiet:
        return QuietView()
    if not sys.stdout.isatty():
        return LineView(sys.stdout)
    from rich.console import Console

    return PanelView(Console(), run_dir)


class QuietView:
    """Shows warnings only, on standard error."""

    def update(self, progress: Progress) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing."""


class LineView:
    """A line every five seconds, and one at the end."""

    def __init__(self, out: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        self._out, self._now_s = out, now_s
        self._due_s = -float("inf")
        self._shown = 0
        self._page: str | None = None
        self._last: Progress | None = None

    def update(self, progress: Progress) -> None:
        """Print a line when one is due and there is something new in it."""
        self._last = progress
        if progress.page != self._page and progress.page is not None:
            self._page = progress.page
            self.note(f"page {progress.page}")
        if progress.records > self._shown and self._now_s() >= self._due_s:
            self._print(progress)

    def note(self, text: str) -> None:
        """Print it."""
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Print what was not due yet."""
        if self._last is not None and self._last.records > self._shown:
            self._print(self._last)

    def _print(self, progress: Progress) -> None:
        self._due_s = self._now_s() + LINE_EVERY_S
        self._shown = progress.records
        print(line(progress), file=self._out, flush=True)


class PanelView:
    """A panel at the bottom of the terminal, renewed four times a second; notes scroll by above it."""

    def __init__(self, console: Console, run_dir: Path) -> None:
        from rich.live import Live

        self._run_dir = run_dir
        self._due_s = 0.0
        self._progress: Progress | None = None
        self._echo = _ControlEcho()
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def update(self, progress: Progress) -> None:
        """Renew the panel if it is due."""
        self._progress = progress
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + PANEL_EVERY_S
            self._live.update(panel(progress, self._run_dir), refresh=True)

    def note(self, text: str) -> None:
        """Print it above the panel."""
        from rich.text import Text

        self._live.console.print(Text(text, style="yellow"))

    def close(self) -> None:
        """Leave the last panel on the screen."""
        if self._progress is not None:
            self._live.update(panel(self._progress, self._run_dir), refresh=True)
        self._live.stop()
        self._echo.restore()


class _ControlEcho:
    """Keeps a terminal from writing `^C` into the panel, until `restore`."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None
        if sys.stdin is not None and sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            changed = [*self._before]
            changed[3] &= ~termios.ECHOCTL
            termios.tcsetattr(sys.stdin, termios.TCSANOW, changed)

    def restore(self) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)


def line(progress: Progress) -> str:
    """The state in one line of plain text."""
    parts = [f"{progress.env_steps:,} of {progress.budget_env_steps:,} env steps ({progress.share:.0%})"]
    if progress.env_steps_per_s is not None:
        parts.append(f"{progress.env_steps_per_s:,.0f} env steps/s")
    if progress.mean_return is not None:
        parts.append(f"return {number(progress.mean_return)}")
    if progress.eval_return is not None:
        parts.append(f"evaluation {number(progress.eval_return)}")
    parts.append(f"version {progress.version}")
    if progress.staleness is not None:
        parts.append(f"staleness {progress.staleness:.1f}")
    parts.append(plural(progress.actors, "actor"))
    if progress.bottleneck:
        parts.append(f"bottleneck {progress.bottleneck}")
    if progress.left_s is not None:
        parts.append(f"{clock(progress.left_s)} left")
    return " | ".join(parts)


def panel(progress: Progress, run_dir: Path) -> RenderableType:
    """The state as a panel, about ten lines high."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    left = "" if progress.left_s is None else f", {clock(progress.left_s)} left"
    bar.add_row(
        ProgressBar(total=1.0, completed=progress.share, complete_style="cyan", finished_style="green"),
        Text.assemble((f"{progress.share:4.0%} ", "bold"), f"of {progress.budget_env_steps:,} env steps{left}"),
    )

    figures = Table.grid(padding=(0, 2), expand=True)
    figures.add_column(style="dim", no_wrap=True)
    figures.add_column(style="bold", no_wrap=True, min_width=len(f"{progress.budget_env_steps:,}") + 4)
    figures.add_column(style="dim", no_wrap=True)
    figures.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    speed = "-" if progress.env_steps_per_s is None else f"{progress.env_steps_per_s:,.0f}"
    staleness = "-" if progress.staleness is None else f"{progress.staleness:.1f} versions"
    figures.add_row("env steps", f"{progress.env_steps:,}", "return", _return(progress))
    figures.add_row("env steps/s", speed, "evaluation", _evaluation(progress))
    figures.add_row("updates", f"{progress.updates:,}", "episodes", f"{progress.episodes:,}")
    figures.add_row("policy version", f"{progress.version:,}", "staleness", staleness)
    figures.add_row("actors", f"{progress.actors}", "elapsed", clock(progress.wall_s))

    if progress.bottleneck:
        foot = Text.assemble(("bottleneck ", "dim"), (progress.bottleneck, "bold magenta"))
        if progress.advice:
            foot.append(f": {progress.advice}", style="")
    else:
        foot = Text("" if progress.records else WAITING, style="dim italic")
    page = [] if progress.page is None else [Text.assemble(("page ", "dim"), progress.page, overflow="fold")]
    return Panel(
        Group(bar, Text(), figures, Text(), foot, *page),
        title=Text.assemble((progress.algorithm, "bold cyan"), " on ", (progress.env, "bold cyan")),
        subtitle=Text(str(run_dir), style="dim", overflow="ellipsis", no_wrap=True),
        title_align="left",
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="cyan",
        padding=(1, 2),
    )


def _return(progress: Progress) -> RenderableType:
    from rich.text import Text

    if progress.mean_return is None:
        return Text("-")
    return Text.assemble((f"{number(progress.mean_return)}  ", "bold green"), (sparkline(progress.returns), "green"))


def _evaluation(progress: Progress) -> RenderableType:
    from rich.text import Text

    goal = "" if progress.target_return is None else f"target {number(progress.target_return)}"
    if progress.eval_return is None:
        return Text(f"-  {goal}", style="dim")
    at = f"at {progress.eval_env_steps:,}"
    reached = progress.target_return is not None and progress.eval_return >= progress.target_return
    style = "bold green" if reached else "bold"
    return Text.assemble((f"{number(progress.eval_return)}  ", style), (", ".join(filter(None, (at, goal))), "dim"))


def sparkline(values: list[float], width: int = 16) -> str:
    """The values as a row of at most `width` bars, each the mean of its share of them."""
    if not values:
        return ""
    width = min(width, len(values))
    cuts = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(_SPARKS[min(len(_SPARKS) - 1, int((m - low) / span * len(_SPARKS)))] for m in means)


def number(value: float) -> str:
    """A return: one decimal, thousands separated."""
    return f"{value:,.1f}"


def plural(count: int, noun: str) -> str:
    """`1 actor`, `2 actors`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def clock(seconds: float) -> str:
    """Seconds as M:SS or H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
