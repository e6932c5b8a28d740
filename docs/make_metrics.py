"""Writes the catalogue into docs/metrics.md: `python -m docs.make_metrics`.

A metric is described once, in core/metrics.py; tests/unit/test_dashboards.py fails where the page is another.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import between_markers, line
from core.metrics import CATALOGUE

PAGE = Path(__file__).with_name("metrics.md")
MARKERS = ("<!-- catalogue: begin (made by `python -m docs.make_metrics`) -->", "<!-- catalogue: end -->")


def text() -> str:
    """The whole page, its catalogue renewed."""
    rows = [["name", "kind", "unit", "labels", "meaning"], ["---"] * 5]
    for metric in CATALOGUE.values():
        series = f"`shoal_{metric.name}{'_total' if metric.kind == 'counter' else ''}`"
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append([series, metric.kind, metric.unit, labels, metric.help])
    return between_markers(PAGE.read_text(encoding="utf-8"), "\n".join(map(line, rows)), MARKERS)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
