"""A replay server's figures as Prometheus sees them; the service is a fake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from core.metrics import CATALOGUE, Metrics
from replay_server.exporter import GAUGES, TOTALS, WHATS, Exporter
from replay_server.in_flight import InFlight


@dataclass
class FakeWaiter:
    what: str
    waited_s: float


@dataclass
class FakeTable:
    numbers: dict[str, float]


@dataclass
class FakeHosted:
    name: str
    table: FakeTable
    waiting: list[FakeWaiter] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        return self.table.numbers

    def waiters(self) -> list[FakeWaiter]:
        return self.waiting

    def waited_s(self, waiter: FakeWaiter) -> float:
        return waiter.waited_s


@dataclass
class FakeService:
    hosted: list[FakeHosted]
    streams: int = 0
    max_bytes: int | None = None
    arriving: InFlight = field(default_factory=lambda: InFlight(lambda: None))
    leaving: InFlight = field(default_factory=lambda: InFlight(lambda: None))
    dropped: list[str] = field(default_factory=list)

    def replay_tables(self) -> list[FakeHosted]:
        return self.hosted


def hosted(name: str = "a", **numbers: float) -> FakeHosted:
    return FakeHosted(name, FakeTable({"held_bytes": 100.0, **numbers}))


def tell(metrics: Metrics, service: Any) -> None:
    """By an exporter that was made before there were tables."""
    there, service.hosted = service.hosted, []
    exporter = Exporter(service, metrics)
    service.hosted = there
    exporter.tell()


def test_gauges_and_totals() -> None:
    metrics = Metrics()
    service = FakeService([hosted(items=7, capacity=10, inserted=20, sampled=30), hosted("b", items=1)], streams=3)
    tell(metrics, service)
    assert metrics.value("table_items", table="a") == 7
    assert metrics.value("table_items", table="b") == 1
    assert metrics.value("table_capacity_items", table="a") == 10
    assert metrics.value("table_inserted_items", table="a") == 20
    assert metrics.value("replay_bytes") == 200
    assert metrics.value("streams") == 3
    assert (metrics.value("rss_bytes", process="replay") or 0) > 1 << 20
    service.hosted[0].table.numbers.update(items=5, inserted=25)
    service.arriving.nbytes = 9
    tell(metrics, service)
    assert metrics.value("table_items", table="a") == 5
    assert metrics.value("table_inserted_items", table="a") == 25
    assert metrics.value("table_sampled_items", table="a") == 30
    assert [metrics.value("in_flight_bytes", what=what) for what in ("arriving", "leaving")] == [9, 0]


def test_a_recovered_tables_counters_begin_with_this_life() -> None:
    metrics, service = Metrics(), FakeService([hosted(inserted=20)])
    exporter = Exporter(cast(Any, service), metrics)
    exporter.tell()
    assert metrics.value("table_inserted_items", table="a") == 0
    service.hosted[0].table.numbers["inserted"] = 25
    exporter.tell()
    assert metrics.value("table_inserted_items", table="a") == 5


def test_a_total_that_went_back_with_a_rollback_stays_where_it_was() -> None:
    metrics, service = Metrics(), FakeService([hosted(inserted=20)])
    for inserted, told in ((20, 20), (15, 20), (19, 20), (22, 22)):
        service.hosted[0].table.numbers["inserted"] = inserted
        tell(metrics, service)
        assert metrics.value("table_inserted_items", table="a") == told


def test_what_does_not_exist_is_absent() -> None:
    metrics, service = Metrics(), FakeService([hosted()])
    tell(metrics, service)
    assert metrics.value("manifest_age_s", table="a") is None
    assert metrics.value("replay_limit_bytes") is None
    service.max_bytes = 1000
    service.hosted[0].table.numbers["manifest_age_s"] = 2.5
    tell(metrics, service)
    assert metrics.value("manifest_age_s", table="a") == 2.5
    assert metrics.value("replay_limit_bytes") == 1000


def test_the_disk_is_that_of_the_tables_files(tmp_path: Path) -> None:
    metrics = Metrics()
    Exporter(cast(Any, FakeService([hosted()])), metrics, tmp_path).tell()
    assert (metrics.value("disk_free_bytes", process="replay") or 0) > 0


def test_waits_by_what_and_none_where_nobody_waits_any_more() -> None:
    metrics, service = Metrics(), FakeService([hosted()])
    waits = [("room to insert", 1.5), ("room to insert", 4.0), ("round 17", 2.0), ("round 18", 0.5), ("the moon", 9.0)]
    service.hosted[0].waiting = [FakeWaiter(*wait) for wait in waits]
    tell(metrics, service)
    seen = {what: metrics.value("waiters", table="a", what=what) for what in (*WHATS, "other")}
    assert seen == {
        "room to insert": 2,
        "items to sample": 0,
        "round": 2,
        "memory for its item": 0,
        "other": 1,
    }
    assert metrics.value("longest_wait_s", table="a", what="room to insert") == 4.0
    assert metrics.value("longest_wait_s", table="a", what="round") == 2.0
    service.hosted[0].waiting = []
    tell(metrics, service)
    assert metrics.value("waiters", table="a", what="round") == 0
    assert metrics.value("longest_wait_s", table="a", what="round") == 0.0


@pytest.mark.parametrize(("names", "kind"), [(GAUGES, "gauge"), (TOTALS, "counter")])
def test_the_names_are_those_of_the_catalogue(names: dict[str, str], kind: str) -> None:
    assert {CATALOGUE[name].kind for name in names.values()} == {kind}


def test_a_dropped_table_is_absent() -> None:
    metrics, service = Metrics(), FakeService([hosted("a", items=3, inserted=20), hosted("b", items=4)])
    tell(metrics, service)
    service.hosted.pop(0)
    service.dropped.append("a")
    tell(metrics, service)
    assert service.dropped == []
    names = ("table_items", "table_inserted_items", "waiters")
    assert [metrics.value(name, table="a", **({"what": "round"} if name == "waiters" else {})) for name in names] == [
        None
    ] * 3
    assert metrics.value("table_items", table="b") == 4
    assert b'table="a"' not in metrics.text()
