"""The table on the terminal and in docs/performance.md, and the results kept between two calls."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rich.table import Table

from benchmarks.rows import Row
from benchmarks.running import Results

BEGIN = "<!-- benchmarks: begin (written by `python -m benchmarks --write`) -->"
END = "<!-- benchmarks: end -->"
VERDICTS = {True: "pass", False: "FAIL", None: "-"}
COLOURS = {True: "green", False: "bold red", None: "dim"}
HEADINGS = ("what", "Shoal", "the other", "ratio", "bar", "verdict")


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = Table(*HEADINGS)
    for row in rows:
        *cells, verdict = _cells(row)
        made.add_row(*cells, f"[{COLOURS[row.passed]}]{verdict}[/]")
    return made


def markdown(rows: Sequence[Row], results: Results) -> str:
    """For a document: where, the table, and the command behind every contestant."""
    runs = max((len(kept) for kept in results.values()), default=0)
    lines = [f"{machine()}. Medians of {runs} interleaved runs; a ratio is the median of the ratios of neighbours."]
    lines += ["", line(HEADINGS), line(["---"] * len(HEADINGS)), *(line(_cells(row)) for row in rows)]
    lines += ["", "The first run of each, as a command:", "", "```"]
    for name, kept in results.items():
        lines += [f"# {name}", *(str(run["command"]) for run in kept[:1] if "command" in run)]
    return "\n".join([*lines, "```"])


def between_markers(text: str, block: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """`text` with what is between its markers replaced. Raises ValueError where they are not there once, in order."""
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the two lines\n{begin}\n{end}\nmust be there once, in this order")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"


def write(document: Path, block: str, markers: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace the document's figures. Raises OSError or ValueError; the document is then as it was."""
    text = between_markers(document.read_text(encoding="utf-8"), block, markers)
    _replace(document, text)


def load(file: Path) -> dict[str, list[dict[str, object]]]:
    """The results of earlier calls."""
    kept: dict[str, list[dict[str, object]]] = json.loads(file.read_text()) if file.is_file() else {}
    return kept


def keep(file: Path, results: Results) -> None:
    """For later calls."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, json.dumps(results, indent=1) + "\n")


def machine() -> str:
    """Where the figures are from."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "gymnasium", "numpy"))
    return f"{os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _cells(row: Row) -> Sequence[str]:
    return (row.what, row.ours, row.other, row.ratio, row.bar, VERDICTS[row.passed])


def line(cells: Sequence[str]) -> str:
    """Of a table in markdown."""
    return f"| {' | '.join(cells)} |"


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
