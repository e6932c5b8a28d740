"""/metrics, /healthz and /readyz over a real socket."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from core.errors import ConfigError
from core.http import MetricsServer
from core.metrics import Metrics


class Process:
    """A process whose state the test sets."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.health: str | None = None
        self.readiness: str | None = "no weights yet"
        self.server = MetricsServer(self.metrics, 0, healthy=lambda: self.health, ready=lambda: self.readiness)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.server.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_metrics_are_those_of_now(process: Process) -> None:
    process.metrics.inc("env_steps", 3)
    status, body = get(process.server.port, "/metrics")
    assert status == 200
    assert "shoal_env_steps_total 3.0" in body
    process.metrics.inc("env_steps", 4)
    assert "shoal_env_steps_total 7.0" in get(process.server.port, "/metrics?x=1")[1]


def test_probes_say_what_is_wrong(process: Process) -> None:
    port = process.server.port
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "no weights yet\n")
    process.readiness, process.health = None, "diverged"
    assert get(port, "/readyz") == (200, "ok\n")
    assert get(port, "/healthz") == (503, "diverged\n")


def test_other_pages_and_methods_are_refused(process: Process) -> None:
    assert get(process.server.port, "/secrets") == (404, "there are: /metrics /healthz /readyz\n")
    assert get(process.server.port, "/metrics", "POST")[0] == 501


def test_a_port_in_use_is_named_with_what_to_do(process: Process) -> None:
    with pytest.raises(
        ConfigError, match=rf"metrics_port: 127.0.0.1:{process.server.port} cannot be used .*another port"
    ):
        MetricsServer(Metrics(), process.server.port)


def test_close_frees_the_port_and_may_be_repeated() -> None:
    first = MetricsServer(Metrics(), 0)
    first.close()
    first.close()
    second = MetricsServer(Metrics(), first.port)
    assert get(second.port, "/healthz") == (200, "ok\n")
    second.close()
