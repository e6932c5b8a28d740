"""One catalogue of all that Shoal measures, and the figures of one process.

Prometheus, TensorBoard, metrics.jsonl, the terminal view and the dashboards read the same names (Prometheus' own have
`shoal_` in front, and counters `_total` behind). A figure that was never set, or was set to NaN or infinity, is absent.
Any thread may write.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Kind = Literal["counter", "gauge", "histogram"]
Instrument = TypeVar("Instrument", Counter, Gauge, Histogram)


@dataclass(frozen=True)
class Metric:
    """What one name means."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


VERSIONS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

_METRICS = (
    # progress
    Metric("env_steps", "counter", "env_steps", "Valid rows that the learner has learned from or stored"),
    Metric("env_steps_per_s", "gauge", "env_steps/s", "Speed of the run, evaluation left out"),
    Metric("episodes", "counter", "episodes", "Training episodes that ended"),
    Metric("mean_return", "gauge", "reward", "Mean sum of raw rewards of the last 100 training episodes"),
    Metric("mean_length", "gauge", "env_steps", "Mean length of the last 100 training episodes"),
    Metric("eval_return", "gauge", "reward", "Mean return of the newest greedy evaluation"),
    Metric("version", "gauge", "versions", "Newest version that was published"),
    # learner
    Metric("updates", "counter", "updates", "Optimiser steps"),
    Metric("learner_wait_share", "gauge", "", "Share of time that the learner waited for data, of late"),
    Metric("learner_wait_data_s", "counter", "s", "Time that the learner waited for a batch"),
    Metric("staleness", "histogram", "versions", "Learner's version at use minus the item's", (), VERSIONS),
    Metric("stale_items_dropped", "counter", "items", "Items not learned from because they were too stale"),
    Metric("algorithm", "gauge", "", "What the algorithm says of its newest round, by name", ("name",)),
    # actors, as their unrolls tell the learner
    Metric("actors", "gauge", "actors", "Actors that are in the run"),
    Metric("actors_act_share", "gauge", "", "Share of the actors' time spent on environments and the policy, of late"),
    Metric("actor_env_steps", "counter", "env_steps", "Valid rows that came from the actor in a slot", ("slot",)),
    Metric("actor_act_s", "counter", "s", "Time spent on environments and the policy", ("slot",)),
    Metric("actor_wait_weights_s", "counter", "s", "Time spent on waiting for weights", ("slot",)),
    Metric("actor_wait_acks_s", "counter", "s", "Time spent on waiting for acknowledgements", ("slot",)),
    # tables
    Metric("table_items", "gauge", "items", "Items in a table", ("table",)),
    Metric("table_capacity_items", "gauge", "items", "Items that fit in a table", ("table",)),
    Metric("table_bytes", "gauge", "bytes", "Memory, or file, of a table's columns", ("table",)),
    Metric("table_inserted_items", "counter", "items", "Items that a table acknowledged", ("table",)),
    Metric("table_sampled_items", "counter", "items", "Items that a table handed out", ("table",)),
    Metric("table_evicted_items", "counter", "items", "Items that made room for newer ones", ("table",)),
    Metric("table_duplicates", "counter", "items", "Items that were known and not inserted again", ("table",)),
    Metric("table_unknown_keys", "counter", "items", "Priorities that came for items which were gone", ("table",)),
    Metric("table_staged_items", "gauge", "items", "Unrolls that wait for their round to be applied", ("table",)),
    Metric("table_lost_items", "counter", "items", "Items that a recovery or rollback did not bring back", ("table",)),
    Metric("manifest_age_s", "gauge", "s", "Age of a table's newest manifest: what a power cut loses", ("table",)),
    Metric("in_flight_bytes", "gauge", "bytes", "Items on their way into tables, draws on their way out", ("what",)),
    Metric("waiters", "gauge", "calls", "Calls, and the learner, that wait, by what they wait for", ("table", "what")),
    Metric("longest_wait_s", "gauge", "s", "How long the first of them has waited", ("table", "what")),
    Metric("torn_reads", "counter", "draws", "Draws by reference that met an overwrite and were repeated", ("table",)),
    # a replay server
    Metric("replay_bytes", "gauge", "bytes", "Memory, or files, of all its tables"),
    Metric("replay_limit_bytes", "gauge", "bytes", "What --max-bytes allows; absent without it"),
    Metric("streams", "gauge", "streams", "Insert and Sample streams that are open"),
    # processes
    Metric("rss_bytes", "gauge", "bytes", "Resident memory of a process", ("process",)),
    Metric("restarts", "counter", "restarts", "Actors that took the slot of one that was lost", ("process",)),
    Metric("metrics_not_finite", "counter", "values", "Values left out because they were not finite", ("metric",)),
)

CATALOGUE: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}


class Metrics:
    """The figures of one process, in a registry of its own. A name that is not in the catalogue is a KeyError."""

    def __init__(self, catalogue: Mapping[str, Metric] = CATALOGUE) -> None:
        self.registry = CollectorRegistry()
        self._catalogue = catalogue
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._lock = threading.Lock()

    def set(self, name: str, value: float, /, **labels: object) -> None:
        """A gauge's value from now on; one that is not finite makes it absent."""
        if self._is_finite(name, value):
            gauge = self._instrument(name, Gauge)
            (gauge.labels(**labels) if labels else gauge).set(value)
        else:
            self._forget(name, labels)

    def inc(self, name: str, amount: float = 1.0, /, **labels: object) -> None:
        """Add `amount`, at least 0, to a counter."""
        if self._is_finite(name, amount):
            counter = self._instrument(name, Counter)
            (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: str, value: float, /, **labels: object) -> None:
        """One more value for a histogram."""
        if self._is_finite(name, value):
            histogram = self._instrument(name, Histogram)
            (histogram.labels(**labels) if labels else histogram).observe(value)

    def forget(self, **labels: object) -> None:
        """Whoever has these labels is gone, and every figure of his."""
        for name, made in list(self._instruments.items()):
            if labels.keys() <= set(self._described(name).labels):
                made.remove_by_labels({key: str(value) for key, value in labels.items()})

    def value(self, name: str, /, **labels: object) -> float | None:
        """A counter's or a gauge's value; None where it is absent."""
        suffix = {"counter": "_total", "gauge": "", "histogram": "_sum"}[self._described(name).kind]
        texts = {key: str(item) for key, item in labels.items()}
        return self.registry.get_sample_value(f"shoal_{name}{suffix}", texts)

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self.registry)

    def _instrument(self, name: str, wanted: type[Instrument]) -> Instrument:
        with self._lock:
            made = self._instruments.get(name)
            if made is None:
                made = self._instruments[name] = self._make(name)
        if not isinstance(made, wanted):
            raise TypeError(f"metric {name} is a {self._catalogue[name].kind}, not a {wanted.__name__.lower()}")
        return made

    def _make(self, name: str) -> Counter | Gauge | Histogram:
        metric = self._described(name)
        words = f"{metric.help} [{metric.unit}]" if metric.unit else metric.help
        arguments = (f"shoal_{name}", words, metric.labels)
        if metric.kind == "counter":
            return Counter(*arguments, registry=self.registry)
        if metric.kind == "gauge":
            return Gauge(*arguments, registry=self.registry)
        return Histogram(*arguments, registry=self.registry, buckets=metric.buckets or Histogram.DEFAULT_BUCKETS)

    def _is_finite(self, name: str, value: float) -> bool:
        self._described(name)
        finite = math.isfinite(value)
        if not finite and name != "metrics_not_finite":
            self.inc("metrics_not_finite", metric=name)
        return finite

    def _forget(self, name: str, labels: Mapping[str, object]) -> None:
        with self._lock:
            made = self._instruments.get(name)
            if made is not None and labels:
                made.remove_by_labels({key: str(value) for key, value in labels.items()})
            elif made is not None:
                self.registry.unregister(self._instruments.pop(name))

    def _described(self, name: str) -> Metric:
        if name not in self._catalogue:
            raise KeyError(f"there is no metric {name!r}: add it to the catalogue in core/metrics.py")
        return self._catalogue[name]
