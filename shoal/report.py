"""What a run says when it is over: solved or not, where everything is, what to do next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core import checkpoint
from core.errors import CheckpointError
from shoal.live import clock, number
from shoal.run_dir import RunDir

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from shoal.training import RunResult


def _command() -> str:
    """How the shoal command is typed here: in a shell without the virtual environment it needs its path."""
    own = Path(sys.argv[0])
    if shutil.which("shoal") or own.name != "shoal":
        return "shoal"
    return shlex.quote(os.path.relpath(own))


def show(result: RunResult, target_return: float | None, console: Console | None = None) -> None:
    """Print the end of a run."""
    from rich.console import Console
    from rich.text import Text

    run = RunDir(result.run_dir)
    rows = [("trained", _trained(result)), ("returns", _returns(result))]
    if run.learning_curve.is_file():
        rows.append(("learning curve", str(run.learning_curve)))
    if (best := _best_checkpoint(run)) is not None:
        rows.append(("checkpoint", str(best)))
    rows += [("summary", str(run.summary)), ("logs", f"{run.logs}/")]
    rows.append(("watch it play", f"{_command()} eval {shlex.quote(str(run.path))} --video"))
    console = console or Console()
    console.print()
    console.print(headline(result, target_return), soft_wrap=True)
    for name, value in rows:
        style = "bold" if value == rows[-1][1] else ""
        console.print(Text.assemble((f"  {name:<16}", "dim"), (value, style)), soft_wrap=True)


def headline(result: RunResult, target_return: float | None) -> Text:
    """Solved or not, in one line."""
    from rich.text import Text

    name = f"{result.algorithm} on {result.env}"
    if target_return is None:
        return Text(f"Done: {name}", style="bold green")
    target = f"target return {number(target_return)}"
    if result.solved_at_env_steps is not None:
        return Text(
            f"Solved: {name}, {target} reached after {result.solved_at_env_steps:,} env steps", style="bold green"
        )
    return Text(f"Not solved: {name}, {target} not reached within {result.env_steps:,} env steps", style="bold yellow")


def _trained(result: RunResult) -> str:
    speed = "" if result.env_steps_per_s is None else f" ({result.env_steps_per_s:,.0f} env steps/s)"
    return f"{result.env_steps:,} env steps, {result.updates:,} updates in {clock(result.wall_s)}{speed}"


def _returns(result: RunResult) -> str:
    parts = []
    if result.eval_return is not None:
        parts.append(f"{number(result.eval_return)} in the last evaluation")
    if result.mean_return is not None:
        parts.append(f"{number(result.mean_return)} over the last episodes of training")
    return ", ".join(parts) or "no episode ended"


def _best_checkpoint(run: RunDir) -> Path | None:
    try:
        return checkpoint.best(run.checkpoints)
    except CheckpointError:
        return None
