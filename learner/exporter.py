"""The learner's figures for Prometheus, under the names of core/metrics.py. Called by the recorder, once a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import add
from pathlib import Path

import torch

from core.metrics import CATALOGUE, Metrics, tell_process
from core.types import UnrollHeader
from learner import gpu
from learner.bottleneck import PARTS
from learner.progress import Progress
from learner.status import Status
from replay_server.exporter import GAUGES, TOTALS, WHATS, set_waits

_TABLE_TOTALS = {**TOTALS, "dropped": "stale_items_dropped", "torn": "torn_reads"}
_ACTORS = ("actor_env_steps", "actor_act_s", "actor_wait_weights_s", "actor_wait_acks_s")
RUN_TOTALS = ("env_steps", "updates", "episodes")
"""Of progress, that a resumed run goes on from."""
_WHATS = (*WHATS, "actors", "a round", "the replay server")
"""What the learner's Info says that is waited for: by the calls of its tables, and by itself."""


class Exporter:
    """Sets gauges, and moves counters by what came since `before`, totals of the run's former lives.

    So a counter begins at 0 in every life: else all that was done before a restart would look as if done in a moment.
    """

    def __init__(
        self,
        metrics: Metrics,
        run_dir: Path | None = None,
        device: torch.device | None = None,
        before: Mapping[str, float] | None = None,
    ) -> None:
        self._metrics, self._run_dir, self._device = metrics, run_dir, device
        self._told: dict[tuple[str, str], float] = {(name, "{}"): total for name, total in (before or {}).items()}
        self._seen: set[str] = set()  # tables: where nobody waits any more, that is told
        self._kept: dict[int, tuple[float, ...]] = {}  # by slot, since figures were told last: unrolls may be many
        metrics.inc("env_steps", 0)  # alerts compare both from the start
        metrics.set("diverged", 0)

    def unrolls(self, headers: Sequence[UnrollHeader], version: int) -> None:
        """Unrolls that were taken when `version` was the newest."""
        for header in headers:
            self._metrics.observe("staleness", max(0, version - header.version))
            if header.slot >= 0:  # else it stands for several
                kept = self._kept.get(header.slot, (0.0,) * len(_ACTORS))
                came = (header.env_steps, header.act_s, header.wait_weights_s, header.wait_acks_s)
                self._kept[header.slot] = tuple(map(add, kept, came))

    def weights(self, nbytes: int, latency_s: float) -> None:
        """A version went to an actor."""
        self._metrics.set("weights_bytes", nbytes)
        self._metrics.inc("weights_sent_bytes", nbytes)
        self._metrics.observe("weights_latency_s", latency_s)

    def diverged(self) -> None:
        """The run ends because a figure was not finite."""
        self._metrics.set("diverged", 1)

    def bottleneck(self, part: str) -> None:
        """What holds the run back of late."""
        for each in PARTS:
            self._metrics.set("bottleneck", each == part, part=each)

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
        times = progress.times
        self._total("learner_wait_data_s", times.wait_data_s)
        self._total("learner_wait_limiter_s", times.limiter_s)
        self._total("learner_update_s", times.update_s)
        self._total("learner_evaluation_s", times.evaluation_s)
        self.services(status)

    def services(self, status: Status) -> None:
        """What the services say, before the first unrolls too: tables and who waits; and the memory of this process."""
        kept, self._kept = self._kept, {}
        for slot, amounts in kept.items():
            for name, amount in zip(_ACTORS, amounts, strict=True):
                self._metrics.inc(name, amount, slot=slot)
        self._total("restarts", status.replaced, process="actor")
        for table, figures in status.tables.items():
            self._table(table, figures)
        self._waits(status)
        tell_process(self._metrics, "learner", self._run_dir)
        for name, figure in gpu.figures(self._device).items():
            self._metrics.set(name, figure)

    def _table(self, table: str, figures: Mapping[str, float]) -> None:
        for key in GAUGES.keys() & figures.keys():
            self._metrics.set(GAUGES[key], figures[key], table=table)
        for key in _TABLE_TOTALS.keys() & figures.keys():
            name = _TABLE_TOTALS[key]
            labels = {} if name == "stale_items_dropped" else {"table": table}
            self._told.setdefault((name, str(labels)), figures[key])  # a replay server may be older than its learner
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
