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
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import async_speedup_page as page
from benchmarks.async_speedup_page import ACTORS, HEADS, LEAST_SHARE, Run, speedup
from benchmarks.running import ROOT, execute

STEP_S = 0.005
TARGET_RETURN = 150.0
EVERY_ENV_STEPS = 1000
ENV_STEPS = 100_000
LONGEST_S = 1800.0
FIRST_SEED = 11
"""Settings were chosen on lower ones."""
RESULTS = ROOT / "docs" / "async-speedup.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("benchmarks.async_speedup", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds (default 5)")
    parser.add_argument("--head", choices=HEADS, action="append", help="only this one; may be said twice")
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args(argv)
    runs: list[Run] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    if not options.page:
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
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
    """One run until an evaluation reaches the score, and the env steps and seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir, line, log = (Path(folder) / name for name in ("run", "line", "log"))
        command = [sys.executable, "-m", "shoal", "train", *flags(head, actors, seed, line), "--run-dir", str(run_dir)]
        code, _ = execute([*command, "--quiet"], log, LONGEST_S)
        if code != 0:
            how = f"did not end within {LONGEST_S:g} s" if code is None else f"ended with exit code {code}"
            raise SystemExit(f"{shlex.join(command)} {how}:\n{log.read_text()[-2000:]}")
        return {"head": head, "actors": actors, "seed": seed, **_reached(run_dir)}


def _reached(run_dir: Path) -> Run:
    """Seconds are env steps over speed: the speed leaves out evaluations, which hold one actor up as much as eight."""
    summary = json.loads((run_dir / "summary.json").read_text())
    env_steps = summary["solved_at_env_steps"]
    if env_steps is None:
        return {}
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    staleness = [record["staleness"] for record in records if record.get("staleness") is not None]
    seconds = env_steps / summary["env_steps_per_s"]
    return {"env_steps": env_steps, "seconds": round(seconds, 2), "staleness": round(statistics.mean(staleness), 2)}


def flags(head: str, actors: int, seed: int, line: Path) -> list[str]:
    """Of `shoal train`: the same for any number of actors."""
    kwargs = [f"env_kwargs.step_s={STEP_S}", f"env_kwargs.line={line}", f"env_kwargs.crowd={actors}"]
    evaluation = [f"evaluation.every_env_steps={EVERY_ENV_STEPS}", "evaluation.episodes=10"]
    settings = [*kwargs, *evaluation, f"a3c.head={head}", *page.SETTINGS[head]]
    sizes = ["--actors", str(actors), "--envs-per-actor", "1", "--env-steps", str(ENV_STEPS), "--seed", str(seed)]
    sizes += ["--target-return", str(TARGET_RETURN)]
    return ["--algorithm", "a3c", "--env", "benchmarks.slow_env:cartpole", *sizes, "--set", *settings]


if __name__ == "__main__":
    sys.exit(main())
