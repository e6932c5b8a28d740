"""`python -m benchmarks.replay`: measure the replay server, its limit and the peer in turns, and hold it to its bars.

The exit code is 1 where a bar was missed. A row that could not be measured says why, and counts as missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.installer import install, python_of
from benchmarks.replay.rows import LIMIT, OURS, REVERB, TOPICS, rows_of
from benchmarks.replay.tables import MARKERS, markdown, table
from benchmarks.running import ROOT, Contestant, Result, interleaved, last_json

DISK_TIMES = 7
"""The rows of the disk take so many times as long: two manifests at least are written meanwhile."""
TIMEOUT_S, RESTART_TIMEOUT_S = 300.0, 900.0


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("shoal bench replay", description=__doc__)
    parser.add_argument("--vs", choices=[REVERB], help="install this peer, where it is not, and measure it too")
    parser.add_argument(
        "--only", nargs="+", choices=TOPICS, default=list(TOPICS), metavar="NAME", help=", ".join(TOPICS)
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each, in turns (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of most measurements (default 3)")
    parser.add_argument("--steps", type=int, default=1_000_000, metavar="N", help="of the table that is restarted")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table between FILE's markers")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "bench" / "replay", metavar="DIR", help="logs, results; on a disk"
    )
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.seconds <= 0:
        parser.error("--repeats must be 1 or more, --seconds more than 0")
    if options.vs is not None:
        install([options.vs])
    console, start_s = Console(width=None if sys.stdout.isatty() else 230), time.monotonic()
    wanted = {name for topic in options.only for name in TOPICS[topic].needs}
    heat = contestants(wanted, options.seconds, options.steps, with_peer=options.vs is not None)
    out = options.out.resolve()
    results: dict[str, list[Result]] = interleaved(
        heat, wanted, options.repeats, out, lambda line: console.print(line, soft_wrap=True, markup=False)
    )
    report.keep(out / "results.json", results)
    rows = rows_of(results, options.only)
    console.print(table(rows))
    console.print(f"{time.monotonic() - start_s:.0f} s; {report.machine()}; logs in {out}", soft_wrap=True)
    if options.write is not None:
        report.write(options.write, markdown(rows, results), MARKERS)
    return 1 if any(row.passed is False for row in rows) else 0


def contestants(wanted: Collection[str], seconds: float, steps: int, *, with_peer: bool) -> list[Contestant]:
    """Those wanted, in an order in which what is compared runs one after the other."""
    heat: dict[str, Contestant] = {}
    for topic in TOPICS.values():
        for name in topic.needs:
            if name in wanted and name not in heat:
                contestant = _contestant(name, seconds, steps, with_peer)
                if contestant is not None:
                    heat[name] = contestant
    return list(heat.values())


def _contestant(name: str, seconds: float, steps: int, with_peer: bool) -> Contestant | None:
    who, _, what = name.partition(" ")
    if who == REVERB:
        python = python_of(REVERB)
        if python is None or not with_peer:
            return None
        command = [str(python), "benchmarks/peers/reverb_replay.py", what]
    else:
        command = [sys.executable, "-m", {OURS: "benchmarks.replay.ours", LIMIT: "benchmarks.replay.limit"}[who], what]
    slow = "disk" in what or "tmpfs" in what
    command += ["--seconds", str(seconds * DISK_TIMES if slow else seconds)]

    def in_folder(_seed: int, folder: Path) -> list[str]:
        return [*command, "--steps", str(steps), "--disk", str(folder)] if who == OURS else command

    once = what == "restart"  # it restarts several times
    timeout_s = RESTART_TIMEOUT_S if once else TIMEOUT_S
    return Contestant(name, in_folder, lambda _folder, log: last_json(log), once=once, timeout_s=timeout_s)
