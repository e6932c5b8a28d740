"""One process of a run whose metrics are metered: `python -m benchmarks.metered shoal actor --learner ...`.

At its end a line of JSON says the processor time that went into metrics, and all of it since the first figure.
`python -m benchmarks.metered learner-of 64 PORT` is no run: it answers scrapes as a busy learner of 64 actors.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import actors.exporter
import core.http
import learner.exporter
import replay_server.exporter
from core.http import MetricsServer
from core.metrics import Metrics
from core.types import UnrollHeader
from learner.progress import Progress
from learner.status import Status, Waiter
from replay_server.exporter import GAUGES, TOTALS, WHATS
from shoal.__main__ import main as shoal

MEASURED: Sequence[tuple[Any, str]] = (
    *((learner.exporter.Exporter, name) for name in ("unrolls", "weights", "run", "services", "bottleneck")),
    (actors.exporter.Exporter, "unroll"),
    (replay_server.exporter.Exporter, "tell"),
    *((core.http._Server, name) for name in ("process_request", "process_request_thread")),
)
"""All that is done for metrics: figures are set, and read."""


class Meter:
    """Processor time of the threads inside what it meters; of calls in calls the outer one counts."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), threading.local()
        self.metrics_s = 0.0
        self._began_s: float | None = None

    def metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "now", False):
                return function(*args, **kwargs)
            if self._began_s is None:
                self._began_s = time.process_time()
            self._inside.now, since_s = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside.now, spent_s = False, time.thread_time() - since_s
                with self._lock:
                    self.metrics_s += spent_s

        return wrapped

    def figures(self) -> dict[str, float]:
        """Seconds."""
        began_s = time.process_time() if self._began_s is None else self._began_s
        return {"metrics_s": self.metrics_s, "process_s": time.process_time() - began_s}


def metered_shoal() -> int:
    """`shoal` with the arguments that are left in sys.argv."""
    meter = Meter()
    for owner, name in MEASURED:
        setattr(owner, name, meter.metered(getattr(owner, name)))
    try:
        return shoal()
    finally:
        print(json.dumps(meter.figures()), flush=True)


class Learner:
    """What a learner of so many actors tells, again and again."""

    def __init__(self, actors: int) -> None:
        self.metrics = Metrics()
        self._exporter = learner.exporter.Exporter(self.metrics)
        self._progress = Progress(time.monotonic, budget_env_steps=1)
        self._progress.algorithm = {f"figure_{n}": 1.0 for n in range(12)}
        waits = [(f"actor {slot}", WHATS[slot % len(WHATS)]) for slot in range(actors)]
        self._status = Status(
            actors=actors,
            tables={"experience": dict.fromkeys((*GAUGES, *TOTALS, "dropped", "torn"), 1.0)},
            waiters=tuple(Waiter("experience", who, what, 1.0, "") for who, what in waits),
        )
        self._headers = [UnrollHeader(slot, 0, 0, 128, (), 0.1, 0.01, 0.01) for slot in range(actors)]

    def tell(self) -> None:
        """A round of unrolls, and the figures of a second."""
        self._exporter.unrolls(self._headers, 5)
        self._exporter.run({"env_steps": 1.0}, self._progress, self._status)


def learner_of(actors: int, port: int) -> None:
    """Answer scrapes as such a learner, busy with Python and arithmetic in turns, until stdin ends."""
    torch.set_num_threads(1)
    told, ended, square = Learner(actors), threading.Event(), torch.ones(512, 512)

    def learn() -> None:
        while not ended.is_set():
            told.tell()
            sum(range(50_000))
            square @ square

    busy = threading.Thread(target=learn, daemon=True)
    server = MetricsServer(told.metrics, port)
    busy.start()
    sys.stdin.read()
    ended.set()
    busy.join()
    server.close()


if __name__ == "__main__":
    what, *sys.argv[1:] = sys.argv[1:]
    if what == "learner-of":
        learner_of(int(sys.argv[1]), int(sys.argv[2]))
    else:
        sys.exit(metered_shoal())
