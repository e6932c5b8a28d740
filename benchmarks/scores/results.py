"""What was run: docs/scores.json, and what a row's runs add up to."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import median
from benchmarks.scores.rows import Reach, Row, Score
from benchmarks.scores.run import Run

Results = Mapping[str, Sequence[Run]]
"""Row id -> its runs by seed."""


class Verdict(NamedTuple):
    """What a row reached. `reached` None: it was not run."""

    reached: str
    bar: str
    holds: bool | None


def load(file: Path) -> dict[str, list[Run]]:
    """The results at hand."""
    found: dict[str, list[Run]] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def keep(file: Path, results: Results) -> None:
    """Write them in one step."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
    os.replace(temporary, file)


def good(runs: Sequence[Run]) -> list[Run]:
    """Those that ended well."""
    return [run for run in runs if "error" not in run]


def verdict(row: Row, runs: Sequence[Run]) -> Verdict:
    """The row's figure against its bar; a run that failed counts as one that reached nothing."""
    return _score(row, runs) if isinstance(row, Score) else _reach(row, runs)


def _score(row: Score, runs: Sequence[Run]) -> Verdict:
    bar = f"{row.bar:,.1f}"
    if not runs:
        return Verdict("not run", bar, None)
    returns = [run.get("eval_return") for run in runs]
    middle = statistics.median(-1e9 if value is None else value for value in returns)
    worst, best = (f(-1e9 if value is None else value for value in returns) for f in (min, max))
    return Verdict(f"{middle:,.1f} ({worst:,.1f} to {best:,.1f})", bar, middle >= row.bar)


def _reach(row: Reach, runs: Sequence[Run]) -> Verdict:
    bar = f"{row.target:g} within {row.env_steps:,}"
    if not runs:
        return Verdict("not run", bar, None)
    counts = [run.get("solved_at_env_steps") for run in runs]
    middle, missed = median(counts), counts.count(None)
    words = "never" if middle is None else f"at {middle:,.0f}"
    return Verdict(words + (f" ({missed} of {len(runs)} never)" if missed else ""), bar, middle is not None)
