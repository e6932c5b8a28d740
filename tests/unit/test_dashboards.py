"""Dashboards, rules and alerts by their files: fresh, well-formed, and of metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.metrics import CATALOGUE
from deploy.grafana import make
from deploy.grafana.panels import DATA_SOURCE, GRID_WIDTH, Board, Panel, Query, Row, build
from deploy.grafana.queries import newest, quantile, rate, series
from docs import make_metrics

ROOT = Path(__file__).parents[2]
GRAFANA, PROMETHEUS = ROOT / "deploy" / "grafana", ROOT / "deploy" / "prometheus"
NAME = re.compile(r"\bshoal_\w+")
EXPOSED = {
    f"shoal_{metric.name}{suffix}"
    for metric in CATALOGUE.values()
    for suffix in {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[metric.kind]
}
"""Every name of a series that a process of Shoal may have."""


def dashboards() -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def rules(name: str) -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def overlapping(panels: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Ids of panels that share a cell of the grid."""
    cells = {
        panel["id"]: {
            (x, y)
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        }
        for panel in panels
    }
    return [(a, b) for a, b in itertools.combinations(cells, 2) if cells[a] & cells[b]]


def test_the_dashboards_are_what_the_panels_say() -> None:
    texts = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert texts == make.texts(), "stale: run python -m deploy.grafana.make"


def test_the_page_has_the_catalogue() -> None:
    page = make_metrics.PAGE.read_text(encoding="utf-8")
    assert page == make_metrics.text(), "stale: run python -m docs.make_metrics"
    assert all(f"| {alert['alert']} |" in page for alert in rules("alerts.yml"))


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_is_well_formed(name: str) -> None:
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"shoal-{Path(name).stem}"
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len({*ids}) == len(ids) > 5
    assert overlapping(panels) == []
    for panel in panels:
        where = panel["gridPos"]
        assert 0 <= where["x"] < where["x"] + where["w"] <= GRID_WIDTH
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "heatmap", "stat")
        assert panel["description"].endswith(".")
        assert (
            panel["options"]["yAxis"]["unit"]
            if panel["type"] == "heatmap"
            else panel["fieldConfig"]["defaults"]["unit"]
        )
        assert panel["datasource"]["uid"] == DATA_SOURCE.uid
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert ("heatmap" in {target.get("format") for target in panel["targets"]}) == (panel["type"] == "heatmap")


def test_panels_rules_and_alerts_name_series_of_the_catalogue() -> None:
    panels = {
        target["expr"] for board in dashboards().values() for p in board["panels"] for target in p.get("targets", ())
    }
    recorded = {rule["record"]: rule["expr"] for rule in rules("recording.yml")}
    named = [name for expr in (*panels, *recorded.values()) for name in NAME.findall(expr)]
    assert len(named) > 50
    assert {*named} <= EXPOSED
    tested = (PROMETHEUS / "tests.yml").read_text()
    assert {*re.findall(r"series: '?(shoal_\w+)", tested)} <= EXPOSED
    for alert in rules("alerts.yml"):
        record, comparison, number = alert["expr"].split(" ")
        assert record in recorded, "an alert is a recording rule and a number"
        assert comparison in ("==", ">", "<")
        assert float(number) >= 0
        assert f"alertname: {alert['alert']}\n" in tested, "it is seen to fire"
        assert f"alertname: {alert['alert']}, exp_alerts: []" in tested, "and not to"
    assert {alert["expr"].split(" ")[0] for alert in rules("alerts.yml")} == {*recorded}, "each is of use"


def test_every_metric_can_be_seen_but_those_of_one_actors_process() -> None:
    """What a panel does not show, somebody must have decided not to show."""
    shown = {name for board in dashboards().values() for name in NAME.findall(json.dumps(board))}
    hidden = {name for name, m in CATALOGUE.items() if not any(s.startswith(f"shoal_{name}") for s in shown)}
    own = {name for name in CATALOGUE if name.startswith("process_")}
    assert hidden - own == {
        *("env_steps_per_s", "learner_wait_share", "actors_act_share"),  # of the terminal; the panels have the counters
        "table_bytes",  # replay_bytes
        "metrics_not_finite",  # of whoever writes metrics
    }


def test_panels_with_metrics_that_only_a_gpu_has_say_so() -> None:
    for board in make.BOARDS:
        for panel in board.panels():
            assert any("shoal_gpu_" in query.expr for query in panel.queries) == panel.needs_gpu


def test_the_data_source_scrapes_as_often_as_prometheus_does() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["uid"] == DATA_SOURCE.uid
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    found = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    assert {job: (sd["names"], sd["type"], sd["port"]) for job, sd in found.items()} == {
        job: ([job], "A", 9100) for job in ("learner", "replay", "actor")
    }
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/shoal.yml").read_text())["providers"]
    assert provider["type"] == "file"


def test_what_the_catalogue_does_not_have_is_refused() -> None:
    assert series("actor_act_s", slot="~1|2") == 'shoal_actor_act_s_total{slot=~"1|2"}'
    assert series("algorithm", name="!~kl") == 'shoal_algorithm{name!~"kl"}'
    assert rate("actor_act_s", "slot") == "sum by (slot) (rate(shoal_actor_act_s_total[$__rate_interval]))"
    with pytest.raises(KeyError):
        series("actor_acts_s")
    with pytest.raises(ValueError, match=r"has the labels \('slot',\), not \['table'\]"):
        series("actor_act_s", table="a")
    with pytest.raises(ValueError, match="only counters have a rate"):
        rate("rss_bytes")
    with pytest.raises(ValueError, match="not a gauge"):
        newest("env_steps")
    with pytest.raises(ValueError, match="is a gauge: it has no series 'bucket'"):
        quantile(0.5, "rss_bytes")
    with pytest.raises(ValueError, match="without a suffix"):
        series("staleness")


def test_a_row_that_does_not_fill_the_grid_is_refused() -> None:
    panel = Panel("A", "B.", "short", [Query("up", "up")], width=10)
    with pytest.raises(ValueError, match=r"row 'R': the widths \[10\] do not fill lines of 24 columns"):
        build(Board("X", "Y", [Row("R", [panel])]))


def test_overlaps_are_found() -> None:
    at = [(0, 0, 12, 8), (11, 0, 4, 4), (12, 4, 8, 4)]
    panels = [{"id": n, "gridPos": dict(zip("xywh", place, strict=True))} for n, place in enumerate(at)]
    assert overlapping(panels) == [(0, 1)]
