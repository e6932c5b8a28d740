"""What a process holds, read again and again, and whether that grows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOST_MIB_PER_MIN = 1.0
LEAST_MIB = 4.0
"""Less than that in all tells of no leak, however short the time: a thread more of a pool takes as much."""
POOL = "event_engine"
"""gRPC's own threads: one more where all wait for a processor, and it stays as long as there is work for it."""
LEAST_SAMPLES = 8
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Held(NamedTuple):
    """By one process at one moment; threads without those of gRPC's pool."""

    at_s: float
    rss_mib: float
    threads: int
    files: int


class Growth(NamedTuple):
    """Of one process after the warm-up; threads and files as the most of the first quarter and the fewest of the last.

    Pools breathe with the load: what leaks never comes back.
    """

    minutes: float
    rss_mib: float
    mib_per_min: float
    threads: tuple[int, int]
    files: tuple[int, int]

    def problems(self) -> Iterator[str]:
        """What of it is a leak."""
        if self.mib_per_min > MOST_MIB_PER_MIN and self.mib_per_min * self.minutes > LEAST_MIB:
            yield f"grows by {self.mib_per_min:.2f} MiB/min, the limit is {MOST_MIB_PER_MIN:g}"
        for what, (first, last) in (("threads", self.threads), ("file descriptors", self.files)):
            if last > first:
                yield f"had {first} {what} at most and has {last} at least"


def held(pid: int, at_s: float) -> Held | None:
    """What the process has now; None where it is gone."""
    folder = Path("/proc") / str(pid)
    try:
        rss = int((folder / "statm").read_text().split()[1]) * PAGE_BYTES
        files = len(os.listdir(folder / "fd"))
        threads = os.listdir(folder / "task")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Held(at_s, rss / (1 << 20), sum(_ours(folder / "task" / thread) for thread in threads), files)


def _ours(thread: Path) -> bool:
    try:
        return (thread / "comm").read_text().strip() != POOL
    except (FileNotFoundError, ProcessLookupError):
        return False


def growth(samples: Sequence[Held], warm_up_s: float) -> Growth | None:
    """Over what came after the warm-up; None for a process that did not live long enough to tell."""
    later = [sample for sample in samples if sample.at_s >= warm_up_s]
    if len(later) < LEAST_SAMPLES:
        return None
    at_min, rss = np.array([s.at_s for s in later]) / 60, np.array([s.rss_mib for s in later])
    quarter = len(later) // 4
    first, last = later[:quarter], later[-quarter:]
    return Growth(
        minutes=float(at_min[-1] - at_min[0]),
        rss_mib=float(rss[-1]),
        mib_per_min=_slope(at_min, rss),
        threads=(max(s.threads for s in first), min(s.threads for s in last)),
        files=(max(s.files for s in first), min(s.files for s in last)),
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between all pairs (Theil-Sen): a single step up, or a peak, is no slope."""
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))
