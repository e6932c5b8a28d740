"""A dashboard in few words, and what the SDK makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import GraphDrawStyle, StackingMode, VisibilityMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="shoal-prometheus")
"""provisioning/datasources/prometheus.yml has the same name."""
GRID_WIDTH = 24
HEIGHT = 8
Unit = Literal["short", "s", "bytes", "Bps", "percentunit", "ops", "cps"]
"""Names of Grafana's; ops are operations a second, cps counts a second."""
Builder = timeseries.Panel | heatmap.Panel | stat.Panel


class Query(NamedTuple):
    """PromQL, and what its lines are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `width` is of 24 columns; the panels of a row fill it. `stacked` lines add up."""

    title: str
    description: str
    unit: Unit
    queries: Sequence[Query]
    kind: Literal["lines", "heatmap", "stat"] = "lines"
    width: int = 8
    stacked: bool = False
    needs_gpu: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    title: str
    description: str
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """Of its file, and within its uid."""
        return self.title.lower()

    def panels(self) -> list[Panel]:
        """All of them."""
        return [panel for row in self.rows for panel in row.panels]


def build(board: Board) -> dashboard.Dashboard:
    """What the SDK makes of it: every panel with an id, side by side in rows."""
    built = (
        dashboard.Dashboard(f"Shoal: {board.title}")
        .uid(f"shoal-{board.name}")
        .description(board.description)
        .tags(["shoal"])
        .refresh("5s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
    )
    number = 0
    for row in board.rows:
        widths = [panel.width for panel in row.panels]
        if sum(widths) % GRID_WIDTH:
            raise ValueError(f"row {row.title!r}: the widths {widths} do not fill lines of {GRID_WIDTH} columns")
        number += 1
        built.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel(_panel(panel, number))
    return built


def _panel(panel: Panel, number: int) -> Builder:
    made: Builder
    if panel.kind == "heatmap":
        made = heatmap.Panel().color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges"))
        made.y_axis(heatmap.YAxisConfig().unit(panel.unit)).show_legend()
    elif panel.kind == "stat":
        made = stat.Panel().unit(panel.unit)
    else:
        made = _lines(panel)
    made.id(number).title(panel.title).description(panel.description)
    made.datasource(DATA_SOURCE).height(HEIGHT).span(panel.width)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).range()
        if panel.kind == "heatmap":
            target.format(PromQueryFormat.HEATMAP)
        made.with_target(target.datasource(DATA_SOURCE))
    return made


def _lines(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().unit(panel.unit).draw_style(GraphDrawStyle.LINE).show_points(VisibilityMode.NEVER)
    if panel.unit == "percentunit":
        made.min(0).axis_soft_max(1)
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    return made
