"""What a process tells over HTTP: pages that are read and never change anything. Threads of its own, no framework.

Every service serves /metrics, /healthz and /readyz where the config names a port; the learner its page, too
(learner/page.py). Routes and probes are called on the server's threads and must not block.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics

from core.errors import ConfigError, RateLimitedError, UnauthenticatedError
from core.gate import HEADER, SCHEME, Gate
from core.metrics import Metrics
from core.security import OPEN, TOKEN, Security, Tls, is_loopback

TEXT = "text/plain; charset=utf-8"
ANY_ADDRESS = ("0.0.0.0", "::")  # nosec B104
MOST_CONNECTIONS = 64
"""Answered at the same time; one more is closed at once. Each takes a thread."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: a browser runs and loads only what came from here, and shows it to no other site."""

Probe = Callable[[], str | None]
"""None when all is well, otherwise what is wrong, in words."""


class Answer(NamedTuple):
    """What is sent back."""

    body: bytes
    kind: str = TEXT
    status: int = 200
    headers: Mapping[str, str] = {}
    sent: Callable[[], None] = lambda: None


Route = Callable[[], Answer]


class HttpServer:
    """Answers GET and HEAD of `routes` at HOST:PORT until `close`. Raises ConfigError where that cannot be had.

    On loopback it refuses requests in the name of another host: a web site could have pointed its name here, to read
    through its visitor's browser. Elsewhere it needs tokens, as every service does, and is encrypted where there is a
    certificate. Where there are tokens, a request has one of them: as Bearer, or as the password a browser asks for.
    Without `guarded` it answers whoever reaches it: figures for scrapers, which have no token.
    """

    def __init__(
        self,
        address: str,
        routes: Mapping[str, Route],
        *,
        setting: str,
        security: Security = OPEN,
        guarded: bool = True,
    ) -> None:
        loopback = is_loopback(address)
        if guarded and security.tokens is None and not loopback:
            raise ConfigError(
                f"{setting}: {address} can be reached by other machines, and there is no token to ask them for; "
                f"give --token-file FILE (or {TOKEN}), or listen on 127.0.0.1"
            )
        tls = None if loopback else _context(security.tls)
        gate = _Gate(security, loopback)

        class Handler(_Handler):
            def answer(self, path: str) -> Answer:
                refused = gate.refusal(self)
                if refused is not None:
                    return refused
                there = f"there are: {' '.join(routes)}\n".encode()
                return routes[path]() if path in routes else Answer(there, status=404)

        host, _, port = address.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), Handler, tls)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{setting}: {address} cannot be used ({getattr(error, 'strerror', error)}); "
                "choose another port, or 0 for any that is free, and an address of this host"
            ) from error
        self.port: int = self._server.server_address[1]
        there = "localhost" if host.strip("[]") in ANY_ADDRESS else host  # can be opened
        self.url = f"{'https' if tls else 'http'}://{there}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; more calls do nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def fine() -> str | None:
    """The probe of a process that is well as long as it answers."""
    return None


class MetricsServer(HttpServer):
    """A process's figures for Prometheus, and its probes, on loopback unless told otherwise.

    /healthz answers as long as the process lives, /readyz says 503 and why while it cannot do its work yet.
    """

    def __init__(self, metrics: Metrics, port: int, host: str = "127.0.0.1", ready: Probe = fine) -> None:
        routes: dict[str, Route] = {
            "/metrics": lambda: self._told(metrics),
            "/healthz": lambda: Answer(b"ok\n"),
            "/readyz": lambda: _probed(ready()),
        }
        disable_created_metrics()  # type: ignore[no-untyped-call]  # half of all lines, and nobody reads them
        self._changed, self._closed = threading.Condition(), False
        self._begun = self._newest_read = 0
        super().__init__(f"{host}:{port}", routes, setting="metrics", guarded=False)

    def _told(self, metrics: Metrics) -> Answer:
        with self._changed:
            self._begun += 1
            number = self._begun

        def sent() -> None:
            with self._changed:
                self._newest_read = max(self._newest_read, number)
                self._changed.notify_all()

        return Answer(metrics.text(), CONTENT_TYPE_LATEST, sent=sent)

    def next_reading(self) -> int:
        """The number of the reading of /metrics that begins next: the first that has all that was told before."""
        with self._changed:
            return self._begun + 1

    def wait_until_read(self, number: int, timeout_s: float) -> bool:
        """Wait until that reading, or a later one, was sent, where anybody has ever read: for last words."""
        with self._changed:
            if self._begun:
                self._changed.wait_for(lambda: self._closed or self._newest_read >= number, timeout_s)
            return self._newest_read >= number

    def close(self) -> None:
        """Stop answering, and whoever waits for a reader waits no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()


def _probed(problem: str | None) -> Answer:
    return Answer(b"ok\n") if problem is None else Answer(f"{problem}\n".encode(), status=503)


def _context(tls: Tls | None) -> ssl.SSLContext | None:
    if tls is None or tls.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key)
    return context


class _Gate:
    """Whose requests are answered. Called on the server's threads."""

    def __init__(self, security: Security, loopback: bool) -> None:
        self._loopback, self._gate, self._lock = loopback, Gate(security), threading.Lock()

    def refusal(self, request: BaseHTTPRequestHandler) -> Answer | None:
        """None where the request is to be answered."""
        if self._loopback and not all(map(_is_ours, request.headers.get_all("Host", []))):
            return Answer(b"this is answered at 127.0.0.1 and localhost only\n", status=403)
        token = _token(request.headers.get("Authorization", ""))
        try:
            with self._lock:
                self._gate.check("HTTP", [(HEADER, SCHEME + token)] if token else [], f"{request.client_address[0]}:0")
        except RateLimitedError as error:
            return Answer(f"{error}\n".encode(), status=429)
        except UnauthenticatedError:
            ask = {"WWW-Authenticate": 'Basic realm="a token of the run as password, with any name", charset="UTF-8"'}
            return Answer(b"a token of the run is needed\n", status=401, headers=ask)
        return None


def _is_ours(host: str) -> bool:
    try:
        return is_loopback(f"[{urlsplit(f'//{host}').hostname}]:0")
    except ValueError:
        return False


def _token(authorization: str) -> str:
    """The token of a Bearer, or of a password; empty where there is none."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "basic":
        return rest.strip()
    with contextlib.suppress(ValueError):
        return base64.b64decode(rest, validate=True).decode().partition(":")[2]
    return ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS
    """Tabs that ask in the same moment; a connection beyond would wait for its second try, a second later."""

    def __init__(self, address: tuple[str, int], handler: type[_Handler], tls: ssl.SSLContext | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._tls, self._room = tls, threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """As HTTPServer, without its look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            if self._tls is not None:  # here, and not where it is accepted: a slow handshake holds up nobody else
                request.settimeout(_Handler.timeout)
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:  # no TLS, or gone
            self.shutdown_request(request)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away or was too slow; anything else is ours, and is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    """Seconds that each read of a request may take."""

    def answer(self, path: str) -> Answer:
        raise KeyError(path)

    def do_GET(self) -> None:
        answer = self._start()
        self.wfile.write(answer.body)
        answer.sent()

    def do_HEAD(self) -> None:
        self._start()

    def _start(self) -> Answer:
        answer = self.answer(self.path.partition("?")[0])
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        return answer

    def end_headers(self) -> None:
        """Of every answer, errors of the base class too."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return "shoal"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe every second would fill the log."""
