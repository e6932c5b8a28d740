"""One catalogue of all that Shoal measures, and the figures of one process.

Prometheus, TensorBoard, metrics.jsonl, the terminal view and the dashboards read the same names (Prometheus' own have
`shoal_` in front, and counters `_total` behind). A figure that was never set, or was set to NaN or infinity, is absent.
Any thread may write.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
SECONDS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_METRICS = (
    # progress
    Metric("env_steps", "counter", "env_steps", "Valid rows that the learner has learned from or stored"),
    Metric("env_steps_per_s", "gauge", "env_steps/s", "Speed of the run, evaluation left out"),
    Metric("episodes", "counter", "episodes", "Training episodes that ended"),
    Metric("mean_return", "gauge", "reward", "Mean sum of raw rewards of the last 100 training episodes"),
    Metric("mean_length", "gauge", "env_steps", "Mean length of the last 100 training episodes"),
    Metric("eval_return", "gauge", "reward", "Mean return of the newest greedy evaluation"),
    Metric("bottleneck", "gauge", "", "Which part holds the run back of late: it has 1, the others 0", ("part",)),
    Metric("version", "gauge", "versions", "Newest version that was published"),
    # learner
    Metric("updates", "counter", "updates", "Optimiser steps"),
    Metric("learner_wait_share", "gauge", "", "Share of time that the learner waited for data, of late"),
    Metric("learner_wait_data_s", "counter", "s", "Time that the learner waited for a batch"),
    Metric("learner_wait_limiter_s", "counter", "s", "Time of these in which a rate limiter held its draws back"),
    Metric("learner_update_s", "counter", "s", "Time that the learner spent on updates"),
    Metric("learner_evaluation_s", "counter", "s", "Time that the learner spent on evaluations"),
    Metric("staleness", "histogram", "versions", "Learner's version at use minus the item's", (), VERSIONS),
    Metric("stale_items_dropped", "counter", "items", "Items not learned from because they were too stale"),
    Metric("algorithm", "gauge", "", "What the algorithm says of its newest round, by name", ("name",)),
    Metric("diverged", "gauge", "", "Whether a loss, or what else it says, was not finite (1), which ends the run"),
    Metric("gpu_memory_bytes", "gauge", "bytes", "Memory of the learner's GPU that is in use, whoever uses it"),
    Metric("gpu_memory_limit_bytes", "gauge", "bytes", "Memory of the learner's GPU"),
    Metric("gpu_busy_share", "gauge", "", "Share of time in which the learner's GPU computed, of late"),
    # weights on their way to the actors
    Metric("weights_bytes", "gauge", "bytes", "Size of the newest version that was sent, encoded"),
    Metric("weights_sent_bytes", "counter", "bytes", "Versions that the actors' streams have taken"),
    Metric("weights_latency_s", "histogram", "s", "From a version's publication until a stream had it", (), SECONDS),
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
    # an actor's own process
    Metric("process_env_steps", "counter", "env_steps", "Valid rows that this actor process has sent"),
    Metric("process_episodes", "counter", "episodes", "Episodes that ended in this actor process"),
    Metric("process_act_s", "counter", "s", "Time that this actor process spent on environments and the policy"),
    Metric("process_wait_weights_s", "counter", "s", "Time that this actor process waited for weights"),
    Metric("process_wait_acks_s", "counter", "s", "Time that this actor process waited for acknowledgements"),
    Metric("process_version", "gauge", "versions", "Version that this actor process acted with last"),
    Metric("process_joins", "counter", "joins", "Seats that this actor process was given"),
    # processes
    Metric("rss_bytes", "gauge", "bytes", "Resident memory of a process", ("process",)),
    Metric("cpu_s", "counter", "s", "Processor time of a process", ("process",)),
    Metric("disk_bytes", "gauge", "bytes", "Size of the disk that a process writes its files to", ("process",)),
    Metric("disk_free_bytes", "gauge", "bytes", "What is left of it", ("process",)),
    Metric("restarts", "counter", "restarts", "Actors that took the slot of one that was lost", ("process",)),
    Metric("metrics_not_finite", "counter", "values", "Values left out because they were not finite", ("metric",)),
)

CATALOGUE: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}


_STATM = Path("/proc/self/statm")


class Metrics:
    """The figures of one process, in a registry of its own. A name that is not in the catalogue is a KeyError."""

    def __init__(self, catalogue: Mapping[str, Metric] = CATALOGUE) -> None:
        self.registry = CollectorRegistry()
        self._catalogue = catalogue
        self._instruments: dict[str, Counter | Gauge | Histogram] = {}
        self._children: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}
        self._lock = threading.Lock()

    def set(self, name: str, value: float, /, **labels: object) -> None:
        """A gauge's value from now on; one that is not finite makes it absent."""
        if math.isfinite(value):
            self._child(name, Gauge, labels).set(value)
        else:
            self._left_out(name)
            self._forget(name, labels)

    def inc(self, name: str, amount: float = 1.0, /, **labels: object) -> None:
        """Add `amount`, at least 0, to a counter."""
        if math.isfinite(amount):
            self._child(name, Counter, labels).inc(amount)
        else:
            self._left_out(name)

    def observe(self, name: str, value: float, /, **labels: object) -> None:
        """One more value for a histogram."""
        if math.isfinite(value):
            self._child(name, Histogram, labels).observe(value)
        else:
            self._left_out(name)

    def forget(self, **labels: object) -> None:
        """Whoever has these labels is gone, and every figure of his."""
        for name, made in list(self._instruments.items()):
            if labels.keys() <= set(self._described(name).labels):
                made.remove_by_labels({key: str(value) for key, value in labels.items()})
        self._children.clear()

    def value(self, name: str, /, **labels: object) -> float | None:
        """A counter's or a gauge's value; None where it is absent."""
        suffix = {"counter": "_total", "gauge": "", "histogram": "_sum"}[self._described(name).kind]
        texts = {key: str(item) for key, item in labels.items()}
        made = self._instruments.get(name)
        samples = [sample for family in made.collect() for sample in family.samples] if made is not None else []
        return next((s.value for s in samples if s.name == f"shoal_{name}{suffix}" and s.labels == texts), None)

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self.registry)

    def _child(self, name: str, wanted: type[Instrument], labels: Mapping[str, object]) -> Instrument:
        """What has these labels; once found, found at once: unrolls are many, and all told of one must cost little."""
        key = (name, *labels.items())
        child = self._children.get(key)
        if child is None:
            with self._lock:
                made = self._instruments.get(name)
                if made is None:
                    made = self._instruments[name] = self._make(name)
                child = self._children[key] = made.labels(**labels) if labels else made
        if not isinstance(child, wanted):
            raise TypeError(f"metric {name} is a {self._catalogue[name].kind}, not a {wanted.__name__.lower()}")
        return child

    def _make(self, name: str) -> Counter | Gauge | Histogram:
        metric = self._described(name)
        words = f"{metric.help} [{metric.unit}]" if metric.unit else metric.help
        arguments = (f"shoal_{name}", words, metric.labels)
        if metric.kind == "counter":
            return Counter(*arguments, registry=self.registry)
        if metric.kind == "gauge":
            return Gauge(*arguments, registry=self.registry)
        return Histogram(*arguments, registry=self.registry, buckets=metric.buckets or Histogram.DEFAULT_BUCKETS)

    def _left_out(self, name: str) -> None:
        """A value that was not finite."""
        self._described(name)
        if name != "metrics_not_finite":
            self.inc("metrics_not_finite", metric=name)

    def _forget(self, name: str, labels: Mapping[str, object]) -> None:
        with self._lock:
            made = self._instruments.get(name)
            if made is not None and labels:
                made.remove_by_labels({key: str(value) for key, value in labels.items()})
            elif made is not None:
                self.registry.unregister(self._instruments.pop(name))
            self._children.clear()

    def _described(self, name: str) -> Metric:
        if name not in self._catalogue:
            raise KeyError(f"there is no metric {name!r}: add it to the catalogue in core/metrics.py")
        return self._catalogue[name]


def tell_process(metrics: Metrics, process: str, folder: Path | None = None) -> None:
    """Memory and processor time of this process, and the room where it writes its files. Called about once a second."""
    if _STATM.exists():
        metrics.set("rss_bytes", int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), process=process)
    told_s = metrics.value("cpu_s", process=process) or 0.0
    metrics.inc("cpu_s", max(0.0, time.process_time() - told_s), process=process)
    if folder is not None and folder.exists():
        disk = shutil.disk_usage(folder)
        metrics.set("disk_bytes", disk.total, process=process)
        metrics.set("disk_free_bytes", disk.free, process=process)
