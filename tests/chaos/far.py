"""An actor that reaches its learner through a proxy, whatever happens to either."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from pathlib import Path

from shoal.processes import HOME
from tests.e2e.proxy import Proxy

GOODBYE_S = 30.0
"""For the actor to hear that the run is over."""


class FarActor:
    """Started again where it ended: nobody else does that. The learner may come back at another port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._proxy: Proxy | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def see_to_it(self) -> None:
        """Have it run, and its proxy lead to the learner there is now."""
        port = self._port()
        if port is None:
            return
        if self._proxy is None:
            self._proxy = Proxy(port)
        self._proxy.target = port
        if self._process is None or self._process.poll() is not None:
            with (self._folder / "far.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "shoal", "actor", "--learner", f"127.0.0.1:{self._proxy.port}"],
                    cwd=self._folder,
                    env={**os.environ, "PYTHONPATH": str(HOME)},
                    stdout=log,
                    stderr=log,
                )

    def _port(self) -> int | None:
        log = self._folder / "run" / "logs" / "learner.log"
        found = re.findall(r"listens on 127\.0\.0\.1:(\d+)", log.read_text(errors="replace")) if log.exists() else []
        return int(found[-1]) if found else None

    @property
    def joined(self) -> bool:
        """Whether there is anything to hurt."""
        return self._process is not None and self._process.poll() is None

    def hurt(self, what: str, seconds: float) -> None:
        """Cut its connections, or pass nothing on for a while."""
        assert self._proxy is not None
        if what == "cut":
            self._proxy.cut()
            return
        self._proxy.partition(True)
        select.select([], [], [], seconds)
        self._proxy.partition(False)

    def close(self) -> None:
        """The run is over: the actor has been told so, or finds nobody."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GOODBYE_S)
            self._process.kill()
            self._process.wait()
        if self._proxy is not None:
            self._proxy.close()
