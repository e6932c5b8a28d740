"""Runs one row with one seed, as a user would, and reads what came of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.running import execute
from benchmarks.scores.rows import Row
from shoal.plots import read_curve

CURVE_POINTS = 50
"""Of a learning curve in the results file."""
LONGEST_S = 6 * 3600.0

Run = Mapping[str, Any]
"""Seed, figures of summary.json and a thinned curve of (env_steps, training return); `error` alone where it failed."""


def train(row: Row, seed: int, folder: Path) -> Run:
    """One run of `shoal train` in `folder`."""
    place = folder / row.id.replace("/", "-").replace(" ", "-") / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    run_dir = place / "run"
    flags = ["--algorithm", row.algorithm, "--env", row.env, "--seed", str(seed), *row.flags()]
    command = [sys.executable, "-m", "shoal", "train", *flags, "--run-dir", str(run_dir), "--overwrite", "--quiet"]
    log = place / "output.log"
    code, _ = execute(command, log, LONGEST_S)
    if code != 0:
        how = "did not end in time" if code is None else f"exit code {code}"
        return {"seed": seed, "error": f"{how} (output: {log})"}
    summary = json.loads((run_dir / "summary.json").read_text())
    names = ("env_steps", "wall_s", "env_steps_per_s", "eval_return", "mean_return", "solved_at_env_steps", "actors")
    return {
        "seed": seed,
        "command": shlex.join(["shoal", "train", *flags]),
        **{name: summary.get(name) for name in names},
        "curve": _thinned(run_dir),
    }


def _thinned(run_dir: Path) -> list[list[float]]:
    line = read_curve(run_dir).main
    step = max(1, len(line) // CURVE_POINTS)
    return [[float(x), round(float(y), 2)] for x, y in line[::step]]
