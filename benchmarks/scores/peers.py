"""Peers' scores measured here, where the published ones are of another version of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import median
from benchmarks.installer import HOW, PINS, python_of
from benchmarks.running import ROOT, Contestant, Result, last_json, run

NAME = "sb3 a2c on LunarLander-v3 at 200000"
SCRIPT = ROOT / "benchmarks" / "peers" / "sb3_lunarlander.py"
SEEDS = 5
TIMEOUT_S = 1800.0
VERSION = next(pin for pin in PINS["sb3"] if pin.startswith("stable-baselines3"))


def measure(folder: Path) -> list[Result]:
    """One run for each seed. Raises SystemExit where the peer is not installed."""
    python = python_of("sb3")
    if python is None:
        raise SystemExit(f"Stable-Baselines3 is not installed: {HOW}")
    contestant = Contestant(
        NAME,
        lambda seed, place: [str(python), str(SCRIPT), "--seed", str(seed)],
        lambda place, log: last_json(log),
        timeout_s=TIMEOUT_S,
    )
    found = []
    for seed in range(1, SEEDS + 1):
        found.append(run(contestant, seed, folder))
        print(f"{NAME}, seed {seed}: {found[-1]}", flush=True)
    return found


def section(runs: Sequence[Result]) -> str:
    """Of the page; empty where nothing was measured."""
    if not runs:
        return ""
    parts = []
    for name, words in (("eval_return", "greedily"), ("sampled_return", "with sampled actions")):
        returns = [result.get(name) for result in runs]
        known = [value for value in returns if value is not None]
        middle = median(returns)
        if middle is not None:
            parts.append(f"{middle:,.1f} ({min(known):,.1f} to {max(known):,.1f}) {words}")
    return (
        "## Measured here\n\n"
        f"{VERSION} with the zoo's settings of a2c on LunarLander-v3 at 200,000 env steps, {len(runs)} seeds, 100 "
        f"episodes each: {', '.join(parts)}. The published 156 +- 80 is of one run on v2. "
        "`python -m benchmarks.scores peers` measures it.\n"
    )
