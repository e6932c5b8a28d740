"""A real Prometheus scrapes real runs: every query of every panel and every alert has data (`make test-metrics`)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from deploy.grafana import make
from deploy.grafana.panels import Panel, Query
from shoal.on_ray.targets import Targets
from tests.e2e.runs import SMALL_PPO, Train, finish, free_ports, train
from tests.metrics.scraping import DEADLINE_S, DEPLOYED, Prometheus, legend_labels, program, wait_for

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(300)]
__all__ = ["train"]
FOREVER = ("--env", "CartPole-v1", "--env-steps", "1000000000", "--target-return", "100000")
SEEN_OFTEN = ("evaluation.every_env_steps=20000", "evaluation.episodes=2")


class Asked(NamedTuple):
    """A query of a panel."""

    panel: Panel
    query: Query

    def problem(self, prometheus: Prometheus) -> str | None:
        """What is wrong with what it gives; "" where it gives nothing."""
        found = prometheus.course(self.query.expr.replace("$__rate_interval", "10s"))
        if not found:
            return ""
        values = [value for _, course in found for value in course]
        missing = [labels for labels, _ in found if not legend_labels(self.query.legend) <= labels.keys()]
        if missing:
            return f"the legend {self.query.legend!r} needs other labels than {missing[0]}"
        if self.panel.unit == "percentunit" and not 0 <= min(values) <= max(values) <= 1.1:
            return f"no shares: {min(values)} to {max(values)}"
        if self.panel.unit not in ("short", "percentunit") and min(values) < 0:
            return f"{min(values)} {self.panel.unit}"
        if self.panel.kind == "stat" and len(found) > 1:
            return f"{len(found)} series in a panel for one figure"
        if self.panel.kind == "heatmap" and "+Inf" not in {labels.get("le") for labels, _ in found}:
            return "no buckets"
        return None


class Watched(NamedTuple):
    """A run, and who scrapes it."""

    run: subprocess.Popen[str]
    prometheus: Prometheus


@pytest.fixture
def watched(tmp_path: Path, train: Train) -> Iterator[list[Watched]]:
    """PPO with two actors, and DQN with a prioritised table on the disk."""
    learner, replay, first, second = free_ports(4)
    ports = [f"network.metrics_port={learner}", f"network.actor_metrics_port={first}"]
    command = ("--algorithm", "ppo", *FOREVER, "--actors", "2", "--quiet", "--set", *SMALL_PPO, *SEEN_OFTEN, *ports)
    ppo = Watched(
        train(*command, run="ppo"),
        Prometheus(tmp_path / "prometheus-ppo", {"learner": [learner], "actor": [first, second]}),
    )
    learner, replay, first = free_ports(3)
    ports = [f"network.{name}={port}" for name, port in (("metrics_port", learner), ("replay_metrics_port", replay))]
    command = ("--algorithm", "dqn", *FOREVER, "--data-dir", str(tmp_path / "tables"), "--quiet", "--set", *SEEN_OFTEN)
    dqn = Watched(
        train(*command, *ports, f"network.actor_metrics_port={first}", "dqn.replay=prioritised", run="dqn"),
        Prometheus(tmp_path / "prometheus-dqn", {"learner": [learner], "replay": [replay], "actor": [first]}),
    )
    yield [ppo, dqn]
    for one in (ppo, dqn):
        one.prometheus.close()


def rules(name: str) -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOYED / name).read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def still_empty(asked: Sequence[Asked], watched: Sequence[Watched]) -> list[Asked]:
    return [one for one in asked if all(one.problem(each.prometheus) == "" for each in watched)]


def unrecorded(watched: Sequence[Watched]) -> list[str]:
    """Recording rules, and so alerts, that have no figure for one of the runs."""
    records = [rule["record"] for rule in rules("recording.yml")]
    return [record for record in records for each in watched if not each.prometheus.course(record)]


def test_every_panel_and_every_alert_has_data_of_its_kind(watched: list[Watched]) -> None:
    asked = [Asked(p, q) for board in make.BOARDS for p in board.panels() if not p.needs_gpu for q in p.queries]
    assert len(asked) > 50
    left: list[object] = [*asked]

    def all_seen() -> bool:
        left[:] = [*still_empty(asked, watched), *unrecorded(watched)]
        return not left

    assert wait_for(all_seen, watched[0].run, DEADLINE_S), f"no data: {left}"
    found = [(one, one.problem(each.prometheus)) for one in asked for each in watched]
    assert [(one.panel.title, one.query.expr, problem) for one, problem in found if problem] == []
    for each in watched:
        groups = each.prometheus.get("rules")["groups"]
        group = [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
        assert {rule["name"]: rule["health"] for rule in group} == {r["alert"]: "ok" for r in rules("alerts.yml")}
        assert [rule["name"] for rule in group if rule["state"] == "firing"] == []
        targets = each.prometheus.get("targets")["activeTargets"]
        assert {target["health"] for target in targets} == {"up"}
        assert {t["labels"]["job"] for t in targets} >= {"learner", "actor"}


def test_a_run_that_diverges_is_known_after_it_is_gone(tmp_path: Path, train: Train) -> None:
    (port,) = free_ports(1)
    prometheus = Prometheus(tmp_path / "prometheus", {"learner": [port]}, scrape_interval="200ms")
    try:
        assert wait_for(lambda: bool(prometheus.course("up")), None, DEADLINE_S), "it does not scrape"
        settings = (f"network.metrics_port={port}", "ppo.learning_rate=1e30", "ppo.unroll_length=4096", "ppo.epochs=2")
        code, output = finish(train("--algorithm", "ppo", *FOREVER, "--quiet", "--set", *settings))
        assert code == 5, output

        def fires() -> bool:
            alerts = (prometheus.get("alerts") or {"alerts": []})["alerts"]
            return ("ShoalLossNotFinite", "firing") in {(a["labels"]["alertname"], a["state"]) for a in alerts}

        assert wait_for(fires, None, DEADLINE_S)
    finally:
        prometheus.close()


def test_the_list_of_a_run_on_ray_is_scraped(tmp_path: Path) -> None:
    targets = Targets(tmp_path / "scrape-targets.json", 9100)
    targets.placed("learner", (), "127.0.0.1")
    targets.placed("actor-3", ("--metrics-port", "9113"), "::1")
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "scrape-targets.json", scrape_interval="200ms")
    try:
        expected = {("learner", "127.0.0.1:9100"), ("actor", "[::1]:9113")}
        assert wait_for(
            lambda: {(of["job"], of["instance"]) for of, _ in prometheus.course("up")} == expected, None, DEADLINE_S
        )
    finally:
        prometheus.close()


def test_the_alerts_fire_when_they_should() -> None:
    configs = (["check", "config", name] for name in ("prometheus.yml", "ray.yml"))
    for command in (*configs, ["test", "rules", "tests.yml"]):
        done = subprocess.run([program("promtool"), *command], cwd=DEPLOYED, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
