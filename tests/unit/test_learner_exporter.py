"""learner/exporter.py: tables and waits as Prometheus sees them."""

from __future__ import annotations

import pytest
import torch

from core.clock import FakeClock
from core.metrics import CATALOGUE, Metrics
from learner import gpu
from learner.bottleneck import PARTS
from learner.exporter import _TABLE_TOTALS, Exporter
from learner.progress import Progress
from learner.status import Status, Waiter


class NVMLError(Exception):
    """As pynvml's: of no class that could be named here."""


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
    run.tell(inserted=4, unknown_keys=2, torn=0, dropped=0)  # of before this learner
    run.tell(items=5, staged=2, inserted=10, unknown_keys=3, torn=1, manifest_age_s=2.5, dropped=4)
    run.tell(items=4, staged=1, inserted=15, unknown_keys=3, torn=2)
    found = {
        name: run.metrics.value(name, table="a") for name in ("table_items", "table_staged_items", "manifest_age_s")
    }
    assert found == {"table_items": 4, "table_staged_items": 1, "manifest_age_s": 2.5}
    totals = ("table_inserted_items", "table_unknown_keys", "torn_reads")
    assert [run.metrics.value(name, table="a") for name in totals] == [11, 1, 2]
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


def test_what_alerts_compare_is_there_from_the_start() -> None:
    metrics = Metrics()
    exporter = Exporter(metrics)
    assert (metrics.value("env_steps"), metrics.value("diverged")) == (0, 0)
    exporter.diverged()
    assert metrics.value("diverged") == 1


def test_counters_begin_at_0_in_a_resumed_life() -> None:
    metrics = Metrics()
    exporter = Exporter(metrics, before={"env_steps": 1000, "updates": 50})
    progress = Progress(FakeClock().now_s, budget_env_steps=100)
    exporter.run({"env_steps": 1000, "updates": 50}, progress, Status())
    assert (metrics.value("env_steps"), metrics.value("updates")) == (0, 0)
    exporter.run({"env_steps": 1100, "updates": 60}, progress, Status())
    assert (metrics.value("env_steps"), metrics.value("updates")) == (100, 10)


def test_one_part_is_the_bottleneck() -> None:
    metrics = Metrics()
    Exporter(metrics).bottleneck("window")
    assert {part: metrics.value("bottleneck", part=part) for part in PARTS} == {**dict.fromkeys(PARTS, 0), "window": 1}


def test_weights_on_their_way() -> None:
    metrics = Metrics()
    exporter = Exporter(metrics)
    exporter.weights(1000, 0.02)
    exporter.weights(1200, 0.5)
    assert (metrics.value("weights_bytes"), metrics.value("weights_sent_bytes")) == (1200, 2200)
    assert metrics.value("weights_latency_s") == pytest.approx(0.52)
    assert b'shoal_weights_latency_s_bucket{le="0.03"} 1.0' in metrics.text()


def test_where_the_learners_time_went() -> None:
    metrics, clock = Metrics(), FakeClock()
    exporter, progress = Exporter(metrics), Progress(clock.now_s, budget_env_steps=100)
    times = progress.times
    times.wait_data_s, times.limiter_s, times.update_s, times.evaluation_s = 4.0, 1.0, 3.0, 2.0
    exporter.run({}, progress, Status())
    times.update_s = 5.0
    exporter.run({}, progress, Status())
    names = ("learner_wait_data_s", "learner_wait_limiter_s", "learner_update_s", "learner_evaluation_s")
    assert [metrics.value(name) for name in names] == [4.0, 1.0, 5.0, 2.0]


def test_a_gpu_is_told_and_how_busy_it_is_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(device: torch.device) -> int:
        asked.append(device)
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 25)
    metrics = Metrics()
    exporter = Exporter(metrics, device=torch.device("cuda"))
    exporter.services(Status())
    names = ("gpu_memory_bytes", "gpu_memory_limit_bytes", "gpu_busy_share")
    assert [metrics.value(name) for name in names] == [5 << 30, 8 << 30, 0.25]
    monkeypatch.setattr(gpu, "_silent", set())
    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    for _ in range(2):
        assert sorted(gpu.figures(torch.device("cuda"))) == sorted(names[:2])
    assert len(asked) == 1
    assert gpu.figures(torch.device("cpu")) == {}


@pytest.mark.parametrize("name", _TABLE_TOTALS.values())
def test_totals_are_counters(name: str) -> None:
    assert CATALOGUE[name].kind == "counter"
