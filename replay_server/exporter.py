"""A replay server's figures for Prometheus, under the names of core/metrics.py.

Called once a second, on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.metrics import Metrics, tell_process
from replay_server.service import ExperienceService

GAUGES = {
    "items": "table_items",
    "capacity": "table_capacity_items",
    "held_bytes": "table_bytes",
    "staged": "table_staged_items",
    "manifest_age_s": "manifest_age_s",
}
TOTALS = {
    "inserted": "table_inserted_items",
    "sampled": "table_sampled_items",
    "evicted": "table_evicted_items",
    "duplicates": "table_duplicates",
    "unknown_keys": "table_unknown_keys",
    "lost": "table_lost_items",
}
WHATS = ("room to insert", "items to sample", "round", "memory for its item")
"""What a call of hosting.py may wait for; a round's number is left out."""
OTHER = "other"


class Exporter:
    """Tells of a replay server. Tables that are there when it is made were recovered: counters begin with this life."""

    def __init__(self, service: ExperienceService, metrics: Metrics, folder: Path | None = None) -> None:
        self._service, self._metrics, self._folder = service, metrics, folder
        self._before = {hosted.name: _totals(hosted.figures()) for hosted in service.replay_tables()}

    def tell(self) -> None:
        """Set the gauges, and move the counters to the totals that the tables have; a total that went back stays."""
        service, metrics = self._service, self._metrics
        while service.dropped:
            name = service.dropped.pop()
            metrics.forget(table=name)
            self._before.pop(name, None)
        held_bytes = 0.0
        for hosted in service.replay_tables():
            figures = hosted.figures()
            held_bytes += figures["held_bytes"]
            self._table(hosted.name, figures)
            waits = ((waiter.what, hosted.waited_s(waiter)) for waiter in hosted.waiters())
            set_waits(metrics, hosted.name, waits)
        metrics.set("replay_bytes", held_bytes)
        metrics.set("streams", service.streams)
        metrics.set("in_flight_bytes", service.arriving.nbytes, what="arriving")
        metrics.set("in_flight_bytes", service.leaving.nbytes, what="leaving")
        if service.max_bytes is not None:
            metrics.set("replay_limit_bytes", service.max_bytes)
        tell_process(metrics, "replay", self._folder)

    def _table(self, name: str, figures: Mapping[str, float]) -> None:
        for key in GAUGES.keys() & figures.keys():
            self._metrics.set(GAUGES[key], figures[key], table=name)
        before = self._before.get(name, {})
        for counter, total in _totals(figures).items():
            told = self._metrics.value(counter, table=name) or 0.0
            self._metrics.inc(counter, max(0.0, total - before.get(counter, 0.0) - told), table=name)


def _totals(figures: Mapping[str, float]) -> dict[str, float]:
    return {TOTALS[key]: figures[key] for key in TOTALS.keys() & figures.keys()}


def set_waits(metrics: Metrics, table: str, waits: Iterable[tuple[str, float]], whats: tuple[str, ...] = WHATS) -> None:
    """Say how many wait for each of `whats`, and for how long; `waits` are (what, seconds)."""
    count, longest_s = dict.fromkeys((*whats, OTHER), 0), dict.fromkeys((*whats, OTHER), 0.0)
    for text, waited_s in waits:
        what = "round" if text.startswith("round ") else text
        what = what if what in count else OTHER
        count[what] += 1
        longest_s[what] = max(longest_s[what], waited_s)
    for what, number in count.items():
        metrics.set("waiters", number, table=table, what=what)
        metrics.set("longest_wait_s", longest_s[what], table=table, what=what)
