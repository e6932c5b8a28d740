"""/metrics, /healthz and /readyz over a real socket, and whose requests are answered."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from core.errors import ConfigError
from core.http import MOST_CONNECTIONS, Answer, HttpServer, MetricsServer
from core.metrics import Metrics
from core.security import Security, Tls, Tokens
from tests import certs
from tests.conftest import Threads


class Process:
    """A process whose state the test sets."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.readiness: str | None = "no weights yet"
        self.server = MetricsServer(self.metrics, 0, ready=lambda: self.readiness)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.server.close()


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
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
    process.readiness = None
    assert get(port, "/readyz") == (200, "ok\n")


def test_other_pages_and_methods_are_refused(process: Process) -> None:
    assert get(process.server.port, "/secrets") == (404, "there are: /metrics /healthz /readyz\n")
    assert get(process.server.port, "/metrics", "POST")[0] == 501


def last_words(process: Process, timeout_s: float = 60.0) -> bool:
    return process.server.wait_until_read(process.server.next_reading(), timeout_s)


def test_last_words_wait_for_one_more_reading_where_anybody_reads(process: Process, threads: Threads) -> None:
    assert last_words(process) is False, "nobody has ever read"
    get(process.server.port, "/healthz")
    assert last_words(process) is False, "a probe is no reader"
    get(process.server.port, "/metrics")
    assert process.server.wait_until_read(1, 10.0) is True
    assert last_words(process, 0.01) is False, "nobody comes any more"
    waiting = threads.start(process.server.wait_until_read, process.server.next_reading(), 60.0)
    get(process.server.port, "/metrics")
    assert waiting.result(10.0) is True


def test_a_reading_that_began_before_the_last_words_does_not_have_them(process: Process) -> None:
    get(process.server.port, "/metrics")
    early = process.server._told(process.metrics)
    number = process.server.next_reading()
    early.sent()
    assert process.server.wait_until_read(number, 0.0) is False
    get(process.server.port, "/metrics")
    assert process.server.wait_until_read(number, 10.0) is True


def test_close_ends_the_wait_for_a_reader(process: Process, threads: Threads) -> None:
    get(process.server.port, "/metrics")
    waiting = threads.start(last_words, process)
    process.server.close()
    assert waiting.result(10.0) is False


def test_a_port_in_use_is_named_with_what_to_do(process: Process) -> None:
    with pytest.raises(ConfigError, match=rf"metrics: 127.0.0.1:{process.server.port} cannot be used .*another port"):
        MetricsServer(Metrics(), process.server.port)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:99999 cannot be used"):
        MetricsServer(Metrics(), 99999)


def test_close_frees_the_port_and_may_be_repeated() -> None:
    first = MetricsServer(Metrics(), 0)
    first.close()
    first.close()
    second = MetricsServer(Metrics(), first.port)
    assert get(second.port, "/healthz") == (200, "ok\n")
    second.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[", "@"]
)
def test_on_loopback_a_foreign_host_is_refused(process: Process, host: str) -> None:
    status, body = get(process.server.port, "/metrics", Host=host)
    assert (status, body) == (403, "this is answered at 127.0.0.1 and localhost only\n")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LocalHost:8080", "[::1]:9", "127.0.0.2"])
def test_the_names_of_this_machine_are_answered_at_any_port(process: Process, host: str) -> None:
    """Any port: a tunnel has another one at its other end."""
    assert get(process.server.port, "/healthz", Host=host) == (200, "ok\n")


def test_a_second_host_header_does_not_get_by(process: Process) -> None:
    with socket.create_connection(("127.0.0.1", process.server.port), 5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"403"


def test_head_has_no_body(process: Process) -> None:
    assert get(process.server.port, "/healthz", "HEAD") == (200, "")


def test_more_connections_than_are_answered_are_closed_at_once(process: Process) -> None:
    address = ("127.0.0.1", process.server.port)
    idle = [socket.create_connection(address, 30) for _ in range(MOST_CONNECTIONS)]
    try:
        with socket.create_connection(address, 30) as one_more:
            assert one_more.recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


TOKEN = "a-token-of-the-tests"
ELSEWHERE = "0.0.0.0:0"


def test_elsewhere_it_needs_a_token_to_ask_for() -> None:
    with pytest.raises(ConfigError, match=r"network.page: 0.0.0.0:0 can be reached by other machines.*--token-file"):
        HttpServer(ELSEWHERE, {}, setting="network.page")


@pytest.mark.parametrize("address", ["127.0.0.1:0", ELSEWHERE])
def test_where_there_are_tokens_one_is_asked_for(address: str) -> None:
    security = Security(Tokens(f"actor: {TOKEN}"))
    server = HttpServer(address, {"/": lambda: Answer(b"hello")}, setting="network.page", security=security)
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    wrong = base64.b64encode(b"anybody:wrong").decode()
    try:
        assert get(server.port, "/", Authorization=f"Bearer {TOKEN}") == (200, "hello")
        assert get(server.port, "/", Authorization=f"Basic {basic}") == (200, "hello")
        for authorization in ("", f"Basic {wrong}", "Basic %", "Bearer wrong", basic):
            status, body = get(server.port, "/", Authorization=authorization)
            assert (status, body) == (401, "a token of the run is needed\n")
        statuses = {get(server.port, "/", Authorization="Bearer wrong")[0] for _ in range(12)}
        assert 429 in statuses
        assert get(server.port, "/", Authorization=f"Bearer {TOKEN}") == (200, "hello")
    finally:
        server.close()


def test_elsewhere_it_is_encrypted_where_there_is_a_certificate(tmp_path: Path) -> None:
    certs.write(tmp_path, trustme.CA())
    tls = Tls(tmp_path / "ca.pem", tmp_path / "learner.pem", tmp_path / "learner-key.pem")
    security = Security(Tokens(TOKEN), tls)
    server = HttpServer(ELSEWHERE, {"/": lambda: Answer(b"hello")}, setting="network.page", security=security)
    try:
        assert server.url == f"https://localhost:{server.port}/"
        with socket.create_connection(("127.0.0.1", server.port), 5) as stalls:  # holds up nobody
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            connection = http.client.HTTPSConnection("localhost", server.port, timeout=5, context=context)
            connection.request("GET", "/", headers={"Authorization": f"Bearer {TOKEN}"})
            assert connection.getresponse().read() == b"hello"
            connection.close()
            stalls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert not stalls.recv(1000).startswith(b"HTTP")
    finally:
        server.close()
