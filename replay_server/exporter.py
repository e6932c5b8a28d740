"""A replay server's figures for Prometheus, under the names of core/metrics.py.

Called once a second, on the event loop's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.metrics import Metrics
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
_STATM = Path("/proc/self/statm")


def export(service: ExperienceService, metrics: Metrics) -> None:
    """Set the gauges, and move the counters to the totals that the tables have; a total that went back stays."""
    while service.dropped:
        metrics.forget(table=service.dropped.pop())
    held_bytes = 0.0
    for hosted in service.replay_tables():
        figures = hosted.figures()
        held_bytes += figures["held_bytes"]
        _table(hosted.name, figures, metrics)
        waits = ((waiter.what, hosted.waited_s(waiter)) for waiter in hosted.waiters())
        set_waits(metrics, hosted.name, waits)
    metrics.set("replay_bytes", held_bytes)
    metrics.set("streams", service.streams)
    metrics.set("in_flight_bytes", service.arriving.nbytes, what="arriving")
    metrics.set("in_flight_bytes", service.leaving.nbytes, what="leaving")
    if service.max_bytes is not None:
        metrics.set("replay_limit_bytes", service.max_bytes)
    if _STATM.exists():
        metrics.set("rss_bytes", int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), process="replay")


def _table(name: str, figures: Mapping[str, float], metrics: Metrics) -> None:
    for key in GAUGES.keys() & figures.keys():
        metrics.set(GAUGES[key], figures[key], table=name)
    for key in TOTALS.keys() & figures.keys():
        told = metrics.value(TOTALS[key], table=name) or 0.0
        metrics.inc(TOTALS[key], max(0.0, figures[key] - told), table=name)


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
