"""The learner's figures for Prometheus, under the names of core/metrics.py. Called by the recorder, once a second."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.metrics import CATALOGUE, Metrics
from core.types import UnrollHeader
from learner.progress import Progress
from learner.status import Status
from replay_server.exporter import GAUGES, TOTALS, WHATS, set_waits

_STATM = Path("/proc/self/statm")
_TABLE_TOTALS = {**TOTALS, "dropped": "stale_items_dropped", "torn": "torn_reads"}
_WHATS = (*WHATS, "actors", "a round", "the replay server")
"""What the learner's Info says that is waited for: by the calls of its tables, and by itself."""


class Exporter:
    """Sets gauges, and moves counters to the totals that it is told."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: dict[tuple[str, str], float] = {}
        self._seen: set[str] = set()  # tables: where nobody waits any more, that is told

    def unrolls(self, headers: Sequence[UnrollHeader], version: int) -> None:
        """Unrolls that were taken when `version` was the newest."""
        for header in headers:
            self._metrics.observe("staleness", max(0, version - header.version))
            if header.slot >= 0:  # else it stands for several
                self._metrics.inc("actor_env_steps", header.env_steps, slot=header.slot)
                self._metrics.inc("actor_act_s", header.act_s, slot=header.slot)
                self._metrics.inc("actor_wait_weights_s", header.wait_weights_s, slot=header.slot)
                self._metrics.inc("actor_wait_acks_s", header.wait_acks_s, slot=header.slot)

    def run(self, figures: Mapping[str, float], progress: Progress, status: Status) -> None:
        """Where the run stands; `figures` are those of a line of progress. Staleness is told by the unrolls."""
        for name, figure in figures.items():
            if CATALOGUE[name].kind == "gauge":
                self._metrics.set(name, figure)
            elif CATALOGUE[name].kind == "counter":
                self._total(name, figure)
        if progress.eval_return is not None:
            self._metrics.set("eval_return", progress.eval_return)
        for name, figure in progress.algorithm.items():
            self._metrics.set("algorithm", figure, name=name)
        self._total("learner_wait_data_s", progress.times.wait_data_s)
        self.services(status)

    def services(self, status: Status) -> None:
        """What the services say, before the first unrolls too: tables and who waits; and the memory of this process."""
        self._total("restarts", status.replaced, process="actor")
        for table, figures in status.tables.items():
            self._table(table, figures)
        self._waits(status)
        if _STATM.exists():
            self._metrics.set(
                "rss_bytes", int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), process="learner"
            )

    def _table(self, table: str, figures: Mapping[str, float]) -> None:
        for key in GAUGES.keys() & figures.keys():
            self._metrics.set(GAUGES[key], figures[key], table=table)
        for key in _TABLE_TOTALS.keys() & figures.keys():
            name = _TABLE_TOTALS[key]
            labels = {} if name == "stale_items_dropped" else {"table": table}
            self._total(name, figures[key], **labels)

    def _waits(self, status: Status) -> None:
        self._seen |= status.tables.keys() | {waiter.table for waiter in status.waiters}
        for table in self._seen:
            waits = [(waiter.what, waiter.waited_s) for waiter in status.waiters if waiter.table == table]
            set_waits(self._metrics, table, waits, _WHATS)

    def _total(self, name: str, total: float, **labels: str) -> None:
        key = (name, str(labels))
        self._metrics.inc(name, max(0.0, total - self._told.get(key, 0.0)), **labels)
        self._told[key] = total
