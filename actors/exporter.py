"""An actor's own figures for Prometheus, under the names of core/metrics.py. Written by the acting thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.http import MetricsServer
from core.metrics import Metrics, tell_process
from core.types import UnrollHeader

PROCESS_EVERY_S = 1.0
"""Memory and processor time are asked of the kernel no more often: unrolls may be many."""


class Exporter:
    """/metrics, /healthz and /readyz of this process; an actor is ready while it has a seat."""

    def __init__(self, port: int | None, host: str = "127.0.0.1", now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s, self._process_told_s = now_s, -PROCESS_EVERY_S
        self._metrics = Metrics()
        self._waits_for: str | None = "no learner has given it a seat yet"
        self._server = None if port is None else MetricsServer(self._metrics, port, host, ready=lambda: self._waits_for)
        self.port = None if self._server is None else self._server.port

    def joined(self) -> None:
        """A learner gave it a seat."""
        self._waits_for = None
        self._metrics.inc("process_joins", 1)

    def left(self, why: str) -> None:
        """The seat is gone."""
        self._waits_for = why

    def unroll(self, header: UnrollHeader) -> None:
        """One more was sent."""
        metrics = self._metrics
        metrics.inc("process_env_steps", header.env_steps)
        metrics.inc("process_episodes", len(header.episodes))
        metrics.inc("process_act_s", header.act_s)
        metrics.inc("process_wait_weights_s", header.wait_weights_s)
        metrics.inc("process_wait_acks_s", header.wait_acks_s)
        metrics.set("process_version", header.version)
        if self._now_s() - self._process_told_s >= PROCESS_EVERY_S:
            self._process_told_s = self._now_s()
            tell_process(metrics, "actor")

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
