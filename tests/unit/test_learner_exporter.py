"""learner/exporter.py: tables and waits as Prometheus sees them."""

from __future__ import annotations

import pytest

from core.clock import FakeClock
from core.metrics import CATALOGUE, Metrics
from learner.exporter import _TABLE_TOTALS, Exporter
from learner.progress import Progress
from learner.status import Status, Waiter


class Run:
    """An exporter that is told how a learner is."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._exporter = Exporter(self.metrics)
        self._progress = Progress(FakeClock().now_s, budget_env_steps=100)

    def tell(self, *waiters: Waiter, **figures: float) -> None:
        self._exporter.run({}, self._progress, Status(tables={"a": figures}, waiters=waiters))

    def waits(self, what: str) -> tuple[float | None, float | None]:
        names = ("waiters", "longest_wait_s")
        count, longest_s = (self.metrics.value(name, table="a", what=what) for name in names)
        return count, longest_s


def test_a_tables_figures_have_the_names_of_the_replay_servers() -> None:
    run = Run()
    run.tell(items=5, staged=2, inserted=10, unknown_keys=3, torn=1, manifest_age_s=2.5, dropped=4)
    run.tell(items=4, staged=1, inserted=15, unknown_keys=3, torn=2)
    found = {
        name: run.metrics.value(name, table="a") for name in ("table_items", "table_staged_items", "manifest_age_s")
    }
    assert found == {"table_items": 4, "table_staged_items": 1, "manifest_age_s": 2.5}
    totals = ("table_inserted_items", "table_unknown_keys", "torn_reads")
    assert [run.metrics.value(name, table="a") for name in totals] == [15, 3, 2]
    assert run.metrics.value("stale_items_dropped") == 4


def test_who_waits_for_what_and_nobody_any_more() -> None:
    run = Run()
    run.tell()
    assert run.waits("a round") == (0, 0)
    run.tell(
        Waiter("a", "the learner", "a round", 1.5, "why"),
        Waiter("a", "actor 1", "room to insert", 3.0, "why"),
        Waiter("a", "actor 2", "room to insert", 2.0, "why"),
        Waiter("a", "the learner", "the replay server", 4.0, "why"),
    )
    assert run.waits("a round") == (1, 1.5)
    assert run.waits("room to insert") == (2, 3.0)
    assert run.waits("the replay server") == (1, 4.0)
    assert run.waits("other") == (0, 0)
    run.tell()
    assert run.waits("room to insert") == (0, 0)


@pytest.mark.parametrize("name", _TABLE_TOTALS.values())
def test_totals_are_counters(name: str) -> None:
    assert CATALOGUE[name].kind == "counter"
