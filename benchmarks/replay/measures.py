"""Percentiles, and what a process takes of the machine. The figures of every measurement have the same names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

PROC = Path("/proc")
Figures = dict[str, float]
TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` % of all do not exceed."""
    if not values:
        raise ValueError("no values, no percentile")
    ordered = np.sort(np.asarray(values, np.float64))
    return float(ordered[max(0, int(np.ceil(percent / 100 * len(ordered))) - 1)])


def latencies(seconds: Sequence[float]) -> Figures:
    """p50 and p99 in milliseconds; nothing where nothing was measured."""
    return {f"p{p}_ms": percentile(seconds, p) * 1e3 for p in (50, 99)} if seconds else {}


def cpu_s(pid: int) -> float | None:
    """Seconds of processor that a process has used, with all its threads. None: not to be had."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * TICK_S


def resident_mb(pid: int) -> tuple[float, float] | None:
    """MB (10^6 bytes) that are resident, mapped files among them, and without what is shared."""
    try:
        fields = (PROC / str(pid) / "statm").read_text().split()
    except OSError:
        return None
    resident, shared = int(fields[1]), int(fields[2])
    return resident * PAGE_BYTES / 1e6, (resident - shared) * PAGE_BYTES / 1e6


class Usage:
    """A process from now until `figures`: its share of a core, and its memory then."""

    def __init__(self, pid: int) -> None:
        self._pid, self._start_s, self._cpu_s = pid, time.perf_counter(), cpu_s(pid)

    def figures(self) -> Figures:
        """`server_cpu_percent` of one core, `server_rss_mb` and `server_own_mb`; none that cannot be had."""
        found: Figures = {}
        used, took_s = cpu_s(self._pid), time.perf_counter() - self._start_s
        if used is not None and self._cpu_s is not None and took_s > 0:
            found["server_cpu_percent"] = 100 * (used - self._cpu_s) / took_s
        memory = resident_mb(self._pid)
        if memory is not None:
            found["server_rss_mb"], found["server_own_mb"] = memory
        return found


def rates(items: int, payload_bytes: int, took_s: float, waited_s: Iterable[float] = ()) -> Figures:
    """Items and GB (10^9 bytes) per second, and the latencies."""
    return {"per_s": items / took_s, "gb_per_s": payload_bytes / took_s / 1e9, **latencies(list(waited_s))}
