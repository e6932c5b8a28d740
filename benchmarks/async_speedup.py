"""How much faster do more actors reach a score? `a3c` with either head, at 1, 2, 4 and 8 actors.

    python -m benchmarks.async_speedup --seeds 5     # runs, then writes docs/async-speedup.md and its picture
    python -m benchmarks.async_speedup --page        # the page alone, from docs/async-speedup.json

The environment's step sleeps, so that what is measured is the algorithm and the path, not the cores at hand. Every
actor has one environment, as in the paper; all start together. The exit code is 1 where eight actors are less than
0.7 x 8 times as fast as one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import async_speedup_page as page
from benchmarks.async_speedup_page import ACTORS, HEADS, LEAST_SHARE, Run, speedup
from benchmarks.running import ROOT

STEP_S = 0.005
TARGET_RETURN = 100.0
LONGEST_S = 900.0
RESULTS = ROOT / "docs" / "async-speedup.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("benchmarks.async_speedup", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 1 to N (default 5)")
    parser.add_argument("--head", choices=HEADS, action="append", help="only this one; may be said twice")
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args(argv)
    runs: list[Run] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    if not options.page:
        for seed in range(1, options.seeds + 1):
            for head in options.head or HEADS:
                for actors in ACTORS:
                    runs = [run for run in runs if not _same(run, head, actors, seed)]
                    runs.append(measure(head, actors, seed))
                    print(runs[-1], flush=True)
                    RESULTS.write_text(json.dumps(runs, indent=1) + "\n")
    page.write(runs, ROOT / "docs" / "async-speedup.md", STEP_S, TARGET_RETURN)
    found = {head: speedup(runs, head)[ACTORS[-1]] for head in HEADS}
    print(found)
    return int(any(value is None or value < LEAST_SHARE * ACTORS[-1] for value in found.values()))


def _same(run: Run, head: str, actors: int, seed: int) -> bool:
    return (run["head"], run["actors"], run["seed"]) == (head, actors, seed)


def measure(head: str, actors: int, seed: int) -> Run:
    """One run until its mean return reaches the score, and the seconds and env steps it took."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir, line = Path(folder) / "run", Path(folder) / "line"
        command = [sys.executable, "-m", "shoal", "train", *flags(head, actors, seed, line), "--run-dir", str(run_dir)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([*command, "--quiet"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            found = _until_reached(process, run_dir / "metrics.jsonl")
        finally:
            _end(process)
        if not found:
            print((Path(folder) / "log").read_text()[-2000:], file=sys.stderr)
    return {"head": head, "actors": actors, "seed": seed, **found}


def flags(head: str, actors: int, seed: int, line: Path) -> list[str]:
    """Of `shoal train`: the same for any number of actors."""
    kwargs = [f"env_kwargs.step_s={STEP_S}", f"env_kwargs.line={line}", f"env_kwargs.crowd={actors}"]
    settings = [*kwargs, "evaluation.every_env_steps=100000000", f"a3c.head={head}", *page.SETTINGS[head]]
    sizes = ["--actors", str(actors), "--envs-per-actor", "1", "--env-steps", "1000000", "--seed", str(seed)]
    return ["--algorithm", "a3c", "--env", "benchmarks.slow_env:cartpole", *sizes, "--set", *settings]


def _until_reached(process: subprocess.Popen[bytes], metrics: Path) -> Mapping[str, Any]:
    """Interpolated between the two records around the score; nothing where it was not reached."""
    before: Mapping[str, Any] = {"wall_s": 0.0, "env_steps": 0, "mean_return": 0.0}
    until_s, seen = time.monotonic() + LONGEST_S, 0
    while time.monotonic() < until_s and process.poll() is None:
        lines = metrics.read_text().split("\n")[:-1] if metrics.is_file() else []
        for record in map(json.loads, lines[seen:]):
            if record["kind"] != "progress" or record["mean_return"] is None:
                continue
            if record["mean_return"] >= TARGET_RETURN:
                share = (TARGET_RETURN - before["mean_return"]) / (record["mean_return"] - before["mean_return"])
                at = {name: before[name] + share * (record[name] - before[name]) for name in ("wall_s", "env_steps")}
                rounded = {"wall_s": round(at["wall_s"], 2), "env_steps": round(at["env_steps"])}
                return {**rounded, "staleness": round(record["staleness"], 2)}
            before = record
        seen = len(lines)
        time.sleep(0.2)
    return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
