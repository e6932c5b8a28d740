"""The catalogue, and figures that are absent rather than wrong."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.metrics import CATALOGUE, Metrics, tell_process
from tests.conftest import Threads


def test_a_figure_is_absent_until_it_is_set() -> None:
    metrics = Metrics()
    assert metrics.value("mean_return") is None
    assert b"shoal_" not in metrics.text()
    metrics.set("mean_return", 12.5)
    assert metrics.value("mean_return") == 12.5
    assert b"\nshoal_mean_return 12.5\n" in metrics.text()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_absent_and_counted(bad: float) -> None:
    metrics = Metrics()
    metrics.set("mean_return", 1.0)
    metrics.set("mean_return", bad)
    assert metrics.value("mean_return") is None
    metrics.set("table_items", 3, table="a")
    metrics.set("table_items", 4, table="b")
    metrics.set("table_items", bad, table="a")
    assert metrics.value("table_items", table="a") is None
    assert metrics.value("table_items", table="b") == 4
    metrics.observe("staleness", bad)
    assert b"shoal_staleness" not in metrics.text()
    assert metrics.value("metrics_not_finite", metric="mean_return") == 1
    assert metrics.value("metrics_not_finite", metric="table_items") == 1
    assert metrics.value("metrics_not_finite", metric="staleness") == 1
    metrics.set("mean_return", 2.0)
    assert metrics.value("mean_return") == 2.0


def test_removing_what_was_never_set_changes_nothing() -> None:
    metrics = Metrics()
    metrics.set("table_items", math.nan, table="a")
    metrics.set("table_items", 1, table="b")
    metrics.set("table_items", math.nan, table="a")
    assert metrics.value("table_items", table="b") == 1


def test_counters_add_up_by_label() -> None:
    metrics = Metrics()
    metrics.inc("table_inserted_items", table="a")
    metrics.inc("table_inserted_items", 2, table="a")
    metrics.inc("table_inserted_items", table="b")
    assert metrics.value("table_inserted_items", table="a") == 3
    assert b'shoal_table_inserted_items_total{table="a"} 3.0' in metrics.text()


def test_histograms_count_in_versions() -> None:
    metrics = Metrics()
    for version in (0, 0, 1, 7):
        metrics.observe("staleness", version)
    text = metrics.text()
    assert b'shoal_staleness_bucket{le="0.0"} 2.0' in text
    assert b'shoal_staleness_bucket{le="10.0"} 4.0' in text
    assert metrics.value("staleness") == 8


def test_an_unknown_name_or_the_wrong_kind_is_refused() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError, match="no metric 'stepps'"):
        metrics.inc("stepps")
    with pytest.raises(KeyError, match="no metric"):
        metrics.set("stepps", math.nan)
    with pytest.raises(KeyError, match="no metric"):
        metrics.value("stepps")
    with pytest.raises(TypeError, match="env_steps is a counter, not a gauge"):
        metrics.set("env_steps", 1)
    with pytest.raises(ValueError, match="label"):
        metrics.set("table_items", 1)


def test_two_processes_figures_in_one_process_stay_apart() -> None:
    one, two = Metrics(), Metrics()
    one.inc("updates")
    assert two.value("updates") is None


def test_a_process_tells_its_memory_processor_time_and_disk(tmp_path: Path) -> None:
    metrics = Metrics()
    tell_process(metrics, "learner", tmp_path)
    assert (metrics.value("rss_bytes", process="learner") or 0) > 1 << 20
    first_s = metrics.value("cpu_s", process="learner") or 0.0
    assert 0 < first_s <= time.process_time()
    free, whole = (metrics.value(name, process="learner") or 0 for name in ("disk_free_bytes", "disk_bytes"))
    assert 0 < free < whole == shutil.disk_usage(tmp_path).total
    while time.process_time() < first_s + 0.01:
        pass
    tell_process(metrics, "learner", tmp_path / "gone")
    assert first_s < (metrics.value("cpu_s", process="learner") or 0.0) <= time.process_time()


def test_threads_lose_no_count(threads: Threads) -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.inc("env_steps")

    for _ in range(4):
        threads.start(count)
    threads.join()
    assert metrics.value("env_steps") == 2000


def test_every_entry_can_be_made_and_says_what_it_is() -> None:
    metrics = Metrics()
    write: dict[str, Callable[..., None]] = {
        "counter": metrics.inc,
        "gauge": metrics.set,
        "histogram": metrics.observe,
    }
    for name, metric in CATALOGUE.items():
        labels = dict.fromkeys(metric.labels, "x")
        write[metric.kind](name, 1.0, **labels)
        assert name == metric.name
        assert metric.help[0].isupper()
        assert not metric.help.endswith(".")
        assert metrics.value(name, **labels) == 1.0
    assert set(CATALOGUE) == {name for name in CATALOGUE if f"shoal_{name}".encode() in metrics.text()}
