"""The learner's web page: what it shows, as JSON, and the files that show it. Read-only.

`Page` is told by the recorder, on the training thread, and asked by the threads of `serve`'s server. What it answers is
made at most once for every line of progress, however many look.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core import yaml12
from core.config import Config, to_plain
from core.errors import ConfigError
from core.http import Answer, HttpServer, Route
from core.security import OPEN, Security
from learner.history import History
from learner.masking import covered
from learner.status import Status

JSON = "application/json"
WEB = Path(__file__).with_name("web")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uplot.js": ("uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/uplot.css": ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
    "/uplot-licence": ("uplot/LICENSE", "text/plain; charset=utf-8"),
}
NO_CURVES = {"wall_s", "updates", "version", "episodes", "took_s"}
"""Counts, which only grow."""
logger = logging.getLogger(__name__)


class Page:
    """What the page shows of one life of a learner."""

    def __init__(self, config: Config, run_dir: Path, security: Security = OPEN, life: str = "") -> None:
        self._life = life or secrets.token_hex(8)
        is_token = security.tokens.are_in if security.tokens is not None else lambda text: False
        self._about = covered(
            {
                "algorithm": config.algorithm,
                "env": config.env,
                "run_dir": str(run_dir),
                "budget_env_steps": config.env_steps,
                "target_return": config.target_return,
                "config": yaml12.dump(covered(to_plain(config), is_token)),
            },
            is_token,
        )
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._progress, self._evaluations = History(), History()
        self._now: Mapping[str, Any] = {}
        self._evaluated: Mapping[str, Any] | None = None
        self._status, self._ended = Status(), ""
        self._changes, self._made = 0, (-1, b"")

    # ------------------------------------------------------------------------------- told, by one thread

    def read(self, lines: Iterable[str]) -> None:
        """Lines of metrics.jsonl that former lives of the run wrote."""
        for line in lines:
            self._curve(json.loads(line))

    def record(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        with self._lock:
            self._changes += 1
            self._curve(line)
            if line["kind"] == "progress":
                self._now = line

    def _curve(self, line: Mapping[str, Any]) -> None:
        history = self._progress
        if line.get("kind") == "evaluation":
            history, self._evaluated = self._evaluations, line
        history.add({name: value for name, value in line.items() if name not in NO_CURVES})

    def status(self, status: Status) -> None:
        """How actors and tables are."""
        with self._lock:
            self._changes += 1
            self._status = status

    def over(self, reason: str) -> None:
        """Training has ended, as summary.json will say."""
        with self._lock:
            self._changes += 1
            self._ended = reason

    # ----------------------------------------------------------------------------- asked, by any thread

    def about(self) -> bytes:
        """What stays the same."""
        return _json({"life": self._life, **self._about})

    def live(self) -> bytes:
        """What changes: the run as of the newest line, and its curves."""
        with self._making:
            with self._lock:
                changes = self._changes
                if changes == self._made[0]:
                    return self._made[1]
                document = self._document()
            self._made = changes, _json(document)
            return self._made[1]

    def _document(self) -> dict[str, Any]:
        state = "over" if self._ended else "training" if self._now else "starting"
        return {
            "life": self._life,
            "state": state,
            "ended": self._ended,
            "now": dict(self._now),
            "evaluation": self._evaluated,
            "replaced": self._status.replaced,
            "actors": [_finite(seated._asdict()) for seated in self._status.seated],
            "waiters": [_finite(waiter._asdict()) for waiter in self._status.waiters],
            "tables": {name: _finite(figures) for name, figures in self._status.tables.items()},
            "progress": self._progress.columns(),
            "evaluations": self._evaluations.columns(),
        }


def serve(page: Page, address: str, security: Security = OPEN, *, port_may_change: bool = False) -> HttpServer:
    """Serve it until `close`. Raises ConfigError where the address cannot be had.

    `port_may_change`: a port that somebody else has by now is no reason against a run that goes on; any other is taken.
    """
    routes: dict[str, Route] = {path: _file(*found) for path, found in FILES.items()}
    routes["/about.json"] = lambda: Answer(page.about(), JSON)
    routes["/live.json"] = lambda: Answer(page.live(), JSON)
    try:
        return HttpServer(address, routes, setting="network.page", security=security)
    except ConfigError as error:
        if not port_may_change:
            raise
        logger.warning("%s; another port is taken", error)
        other = f"{address.rpartition(':')[0]}:0"
        return HttpServer(other, routes, setting="network.page", security=security)


def _file(name: str, kind: str) -> Route:
    answer = Answer((WEB / name).read_bytes(), kind)
    return lambda: answer


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Those that JSON has a word for."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
