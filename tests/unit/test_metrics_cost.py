"""What metrics cost, in processor time of one thread, which no other process can lengthen much."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from actors.exporter import Exporter
from benchmarks import metered
from benchmarks.metrics_cost import Cost
from core.types import UnrollHeader


def least_s(work: Callable[[], object], times: int) -> float:
    """The quickest of some calls."""
    took = []
    for _ in range(times):
        began_s = time.thread_time()
        work()
        took.append(time.thread_time() - began_s)
    return min(took)


def test_a_scrape_of_64_actors_takes_less_than_50_ms() -> None:
    learner = metered.Learner(64)
    learner.tell()
    text = learner.metrics.text()
    assert text.count(b"\nshoal_actor_act_s_total{") == 64
    assert least_s(learner.metrics.text, times=20) < 0.05


def test_a_learner_of_64_actors_spends_less_than_a_hundredth_of_a_second_a_second() -> None:
    learner = metered.Learner(64)
    learner.tell()
    assert least_s(learner.tell, times=20) < 0.01


def test_an_actor_spends_less_than_a_hundredth_of_a_short_unroll() -> None:
    """DQN's preset has 16 rows of 8 environments, 5 ms."""
    exporter, header = Exporter(None), UnrollHeader(0, 0, 0, 128, (), 0.1, 0.01, 0.01)

    def hundred() -> None:
        for _ in range(100):
            exporter.unroll(header)

    assert least_s(hundred, times=20) / 100 < 0.01 * 0.005


def test_what_is_metered_is_there() -> None:
    assert [(owner, name) for owner, name in metered.MEASURED if not callable(getattr(owner, name, None))] == []


def test_a_meter_counts_each_moment_once() -> None:
    meter = metered.Meter()

    def spin() -> None:
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass

    inner = meter.metered(spin)

    def outer() -> None:
        spin()
        inner()

    meter.metered(outer)()
    figures = meter.figures()
    assert 0.04 <= figures["metrics_s"] < 0.06
    assert figures["process_s"] >= figures["metrics_s"] - 0.01


@pytest.mark.parametrize(("value", "verdict"), [(0.99, "pass"), (1.0, "miss")])
def test_a_bar_is_to_be_below(value: float, verdict: str) -> None:
    cost = Cost("an actor", value, 1.0, "%", "of 3 s")
    assert cost.cells() == ["an actor", f"{value:.2f} %", "of 3 s", "< 1 %", verdict]
