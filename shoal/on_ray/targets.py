"""What Prometheus is to scrape of a run on Ray: a list for its file_sd_configs, as processes come, move and end."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

FLAG = "--metrics-port"


class Targets:
    """The file at `path`, written anew at every change. The learner has its port of the config: it is in no flag."""

    def __init__(self, path: Path, learner_port: int | None) -> None:
        self._path, self._learner_port = path, learner_port
        self._there: dict[str, str] = {}

    def placed(self, name: str, arguments: Sequence[str], host: str | None) -> None:
        """The process runs on `host` now; on None where it has ended. One without a port is no target."""
        port = self._port(name, arguments)
        there = {key: target for key, target in self._there.items() if key != name}
        if host is not None and port:
            there[name] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if there != self._there:
            self._there = there
            self._write()

    def _port(self, name: str, arguments: Sequence[str]) -> int | None:
        if name == "learner":
            return self._learner_port
        return int(arguments[arguments.index(FLAG) + 1]) if FLAG in arguments else None

    def _write(self) -> None:
        found = [
            {"targets": [target], "labels": {"job": name.partition("-")[0]}}
            for name, target in sorted(self._there.items())
        ]
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(new, self._path)  # Prometheus never reads half of it
