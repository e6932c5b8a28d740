"""The table on the terminal and in a document."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.replay.rows import Row
from benchmarks.report import COLOURS, VERDICTS, line, machine
from benchmarks.running import Results

MARKERS = (
    "<!-- replay benchmarks: begin (written by `shoal bench replay --write`) -->",
    "<!-- replay benchmarks: end -->",
)
HEADINGS = (
    *("what", "Shoal", "limit", "share", "Reverb", "times", "GB/s", "p50 / p99", "server CPU, RSS", "bar", "verdict"),
)


def cells(row: Row) -> list[str]:
    """All but the verdict."""
    compared = [row.what, row.ours, row.limit, row.share, row.reverb, row.times]
    return [*compared, row.speed, row.latency, row.server, row.bar]


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = Table(*HEADINGS, show_lines=True)
    for row in rows:
        plain = [cell.replace("[", "\\[") for cell in cells(row)]
        made.add_row(*plain, f"[{COLOURS[row.passed]}]{VERDICTS[row.passed]}[/]")
    return made


def markdown(rows: Sequence[Row], results: Results) -> str:
    """For a document: where, and the table."""
    runs = max((len(kept) for kept in results.values()), default=0)
    lines = [
        f"{machine()}. Medians of {runs} runs in turns; a share and a times are the median of those of neighbours. "
        "Latencies are those of our clients with all their requests under way (16 inserts, 8 samples; 1 of each of the "
        "256 actors); a server's CPU is in % of one core, its resident memory with the tables' files, and without.",
        "",
        line(HEADINGS),
        line(["---"] * len(HEADINGS)),
    ]
    return "\n".join([*lines, *(line([*cells(row), VERDICTS[row.passed]]) for row in rows)])
