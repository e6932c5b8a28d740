"""`python -m benchmarks`: measure Shoal, the bare path and the peers side by side, and hold them to their bars.

Names of topics measure only those. `report` shows what earlier calls measured; `install-peers` makes the peers'
virtual environments. The exit code is 1 where a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.contestants import HEATS, PEER_OF
from benchmarks.installer import PINS, install, python_of
from benchmarks.rows import TOPICS, rows_of
from benchmarks.running import ROOT, Result, interleaved

REPORT, INSTALL = "report", "install-peers"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"{', '.join(TOPICS)} (default: all), {REPORT} or {INSTALL}")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each, seeds 1 to N (default 5)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write all results at hand between FILE's markers")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", metavar="DIR", help="logs and raw results")
    options = parser.parse_args(argv)
    if options.what == [INSTALL]:
        return install(list(PINS))
    unknown = set(options.what) - {*TOPICS, REPORT}
    if unknown or options.repeats < 1:
        parser.error(f"there is no {', '.join(sorted(unknown))}" if unknown else "--repeats must be 1 or more")
    topics = [name for name in TOPICS if not options.what or name in options.what]
    return measure(topics, options.repeats, options.out.resolve(), options.write, only_report=REPORT in options.what)


def measure(topics: Sequence[str], repeats: int, out: Path, document: Path | None, *, only_report: bool) -> int:
    """Run what `topics` need, keep the results, show their rows."""
    wide = None if sys.stdout.isatty() else 180
    console, file, start_s = Console(width=wide), out / "results.json", time.monotonic()
    results: dict[str, Sequence[Result]] = {**report.load(file)}
    if not only_report:
        wanted = {name for topic in topics for name in TOPICS[topic].needs}
        missing = {name for name in wanted if name in PEER_OF and python_of(PEER_OF[name]) is None}
        for name in missing:
            results.pop(name, None)
        for heat in HEATS:
            results |= interleaved(
                heat, wanted - missing, repeats, out, lambda line: console.print(line, soft_wrap=True)
            )
            report.keep(file, results)
    at_hand = [name for name, topic in TOPICS.items() if {*topic.needs} - {*PEER_OF} <= results.keys()]
    shown = rows_of(results, at_hand if only_report else topics)
    console.print(report.table(shown))
    console.print(f"{time.monotonic() - start_s:.0f} s; {report.machine()}; raw results in {file}", soft_wrap=True)
    if document is not None:
        report.write(document, report.markdown(rows_of(results, at_hand), results))
    return 1 if any(row.passed is False for row in shown) else 0


if __name__ == "__main__":
    sys.exit(main())
