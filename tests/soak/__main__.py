"""The command line. The exit code is 1 where a process grew, or a run did not live to its end."""

from __future__ import annotations

import argparse
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.processes import HOME
from tests.e2e.runs import env_steps, pids
from tests.soak.growth import Growth, Held, growth, held

EVERY_S = 2.0
MOST_WARM_UP_S = 300.0
ENDLESS = ("--env", "CartPole-v1", "--env-steps", "1000000000", "--quiet", "--set", "evaluation.every_env_steps=20000")
RUNS = {
    "ppo": ("--algorithm", "ppo", "--actors", "2", *ENDLESS, "checkpoint.every_env_steps=20000"),
    "dqn": ("--algorithm", "dqn", "--actors", "2", *ENDLESS, "dqn.replay_capacity=20000", "checkpoint.every_s=10"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        report, failed = _soak(folder, options.minutes * 60)
    finally:
        shutil.rmtree(folder)
    print(report)
    if options.write is not None:
        options.write.write_text(report, encoding="utf-8")
    return int(failed)


def _soak(folder: Path, seconds: float) -> tuple[str, bool]:
    """The report, and whether anything in it is wrong."""
    started = {name: _start(folder / name, flags) for name, flags in RUNS.items()}
    samples: dict[tuple[str, str, int], list[Held]] = defaultdict(list)
    ends = [os.pidfd_open(process.pid) for process in started.values()]
    begun_s = time.monotonic()
    while (at_s := time.monotonic() - begun_s) < seconds and all(p.poll() is None for p in started.values()):
        for name in RUNS:
            for pid, role in pids(folder / name).items():
                found = held(pid, at_s)
                if found is not None:
                    samples[name, role, pid].append(found)
        select.select(ends, [], [], EVERY_S)
    for end in ends:
        os.close(end)
    ended = {name: process.poll() for name, process in started.items()}
    for process in started.values():
        process.send_signal(signal.SIGTERM)
    codes = {name: process.wait(60.0) for name, process in started.items()}
    steps = {name: env_steps(folder / name) for name in RUNS}
    warm_up_s = min(MOST_WARM_UP_S, seconds / 2)
    grown = {key: growth(of_it, warm_up_s) for key, of_it in samples.items()}
    wrong = [f"{name} ended with exit code {code} before its time" for name, code in ended.items() if code is not None]
    wrong += [f"{name} took {codes[name]} as its exit code" for name in RUNS if codes[name] not in (0, 130, 143)]
    wrong += [f"{name} did not train" for name, count in steps.items() if count == 0]
    wrong += [f"{n} {role}: {what}" for (n, role, _), g in grown.items() if g is not None for what in g.problems()]
    return _page(grown, seconds, warm_up_s, steps, wrong), bool(wrong)


def _start(folder: Path, flags: Sequence[str]) -> subprocess.Popen[bytes]:
    folder.mkdir()
    with (folder / "launcher.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "shoal", "train", "--run-dir", str(folder / "run"), *flags],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HOME)},
            stdout=log,
            stderr=log,
        )


def _page(
    grown: Mapping[tuple[str, str, int], Growth | None],
    seconds: float,
    warm_up_s: float,
    steps: Mapping[str, int],
    wrong: Sequence[str],
) -> str:
    lines = [
        "# Soak",
        "",
        "<!-- Written by `python -m tests.soak --write docs/soak.md` (`make soak`). Do not edit. -->",
        "",
        "Runs of `shoal train` side by side, with evaluations and checkpoints all the time. Resident memory, threads",
        "and file descriptors of every process are read every two seconds; the slope is the median over all pairs of",
        "readings after the warm-up (Theil-Sen). Threads (gRPC's pool left out) and files: the most of the first",
        "quarter, the fewest of the last; what leaks never comes back.",
        "",
        f"{seconds / 60:.0f} minutes, {warm_up_s:.0f} s of them warm-up; "
        + ", ".join(f"{name} {count:,} env steps" for name, count in steps.items())
        + f". {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}.",
        "",
        f"**{'Nothing grew.' if not wrong else 'Failed: ' + '; '.join(wrong)}**",
        "",
        "| run | process | memory, MiB | slope, MiB/min | threads | file descriptors |",
        "|---|---|---|---|---|---|",
    ]
    for (name, role, _), found in sorted(grown.items()):
        if found is not None:
            threads, files = (f"{first}, {last}" for first, last in (found.threads, found.files))
            slope = f"{found.mib_per_min:.3f}"
            lines.append(f"| {name} | {role} | {found.rss_mib:.0f} | {slope} | {threads} | {files} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
