"""A process's /metrics, /healthz and /readyz, on a daemon thread and on loopback unless told otherwise.

Every service makes one where the config names a port. The probes are called on the server's threads and must not block.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from core.errors import ConfigError
from core.metrics import Metrics

Probe = Callable[[], str | None]
"""None when all is well, otherwise what is wrong, in words."""


def fine() -> str | None:
    """The probe of a process that is well as long as it answers."""
    return None


class MetricsServer:
    """Answers until `close`. Raises ConfigError where the address cannot be used.

    /healthz fails when the process should be restarted, /readyz while it cannot do its work yet.
    """

    def __init__(
        self, metrics: Metrics, port: int, host: str = "127.0.0.1", healthy: Probe = fine, ready: Probe = fine
    ) -> None:
        pages: dict[str, Callable[[], tuple[int, bytes]]] = {
            "/metrics": lambda: (200, metrics.text()),
            "/healthz": lambda: _answer(healthy()),
            "/readyz": lambda: _answer(ready()),
        }

        class Handler(_Handler):
            def page(self, path: str) -> tuple[int, bytes]:
                return pages[path]() if path in pages else (404, f"there are: {' '.join(pages)}\n".encode())

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"network.metrics_port: {host}:{port} cannot be used ({error.strerror}); "
                "choose another port, or 0 for any that is free"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; more calls do nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(problem: str | None) -> tuple[int, bytes]:
    return (200, b"ok\n") if problem is None else (503, f"{problem}\n".encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As HTTPServer, without its look-up of the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    """Seconds for one request to arrive."""

    def page(self, path: str) -> tuple[int, bytes]:
        raise KeyError(path)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, body = self.page(path)
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST if path == "/metrics" else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe every second would fill the log."""
