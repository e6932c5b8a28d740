"""Command line of the scores. The exit code is 1 where a row that was run misses its bar or a run failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.running import ROOT
from benchmarks.scores import __doc__ as about
from benchmarks.scores import page, peers, results
from benchmarks.scores.rows import GROUPS, ROWS
from benchmarks.scores.run import Run, train

DOCS = ROOT / "docs"
RESULTS = DOCS / "scores.json"
PEERS_RESULTS = DOCS / "scores-peers.json"
PAGE, PEERS = "page", "peers"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("benchmarks.scores", description=about)
    parser.add_argument("groups", nargs="*", help=f"{', '.join(GROUPS)} (default: all), or {PAGE}, {PEERS}")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has TEXT, such as 'ppo on Hopper'")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 1 to N; default: the row's own number")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--again", action="store_true", help="run what is there once more")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "scores", metavar="DIR", help="logs and run folders"
    )
    options = parser.parse_args(argv)
    unknown = set(options.groups) - {*GROUPS, PAGE, PEERS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    at_hand, of_peers = results.load(RESULTS), results.load(PEERS_RESULTS)
    if options.groups == [PEERS]:
        of_peers[peers.NAME] = [dict(found) for found in peers.measure(options.out.resolve())]
        results.keep(PEERS_RESULTS, of_peers)
    elif options.groups != [PAGE]:
        _run(options, at_hand)
    page.write(at_hand, DOCS / "scores.md", DOCS / "images", peers.section(of_peers.get(peers.NAME, [])))
    failed = False
    for row in ROWS:
        runs = at_hand.get(row.id, [])
        found = results.verdict(row, runs)
        if runs:
            failed |= not found.holds or len(results.good(runs)) < len(runs)
            print(f"{row.id}: {found.reached}, bar {found.bar}{'' if found.holds else '  MISSED'}")
    return int(failed)


def _run(options: argparse.Namespace, at_hand: dict[str, list[Run]]) -> None:
    """Everything that is wanted and not there; kept after every run."""
    due = [
        (row, seed)
        for row in ROWS
        if (not options.groups or row.group in options.groups) and options.only in row.id
        for seed in range(1, (options.seeds or row.seeds) + 1)
        if options.again or seed not in {run["seed"] for run in results.good(at_hand.get(row.id, []))}
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(train, row, seed, options.out.resolve()): (row, seed) for row, seed in due}
        for done in as_completed(running):
            row, seed = running[done]
            others = [run for run in at_hand.get(row.id, []) if run["seed"] != seed]
            at_hand[row.id] = sorted([*others, done.result()], key=lambda run: int(run["seed"]))
            results.keep(RESULTS, at_hand)
            shown = {name: value for name, value in done.result().items() if name not in ("curve", "command")}
            print(f"{row.id}, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
