"""A real Prometheus with the rules of deploy/prometheus, scraping processes of this machine."""

from __future__ import annotations

import json
import math
import re
import select
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.runs import free_ports

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
DEADLINE_S = 60.0


def program(name: str) -> str:
    """Debian's prometheus or promtool; an error, not a skip, where it is missing."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install prometheus"
    return found


class Prometheus:
    """Configured as deployed, with other targets: `where` is job -> ports of this machine, or the list of a Ray run."""

    def __init__(self, folder: Path, where: Mapping[str, list[int]] | Path, scrape_interval: str = "1s") -> None:
        config = yaml.safe_load((DEPLOYED / ("ray.yml" if isinstance(where, Path) else "prometheus.yml")).read_text())
        config["global"] = {"scrape_interval": scrape_interval, "evaluation_interval": scrape_interval}
        config["rule_files"] = [str(DEPLOYED / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            if isinstance(where, Path):
                job["file_sd_configs"][0]["files"] = [str(where)]
            else:
                del job["dns_sd_configs"]
                targets = [f"127.0.0.1:{port}" for port in where.get(job["job_name"], ())]
                job["static_configs"] = [{"targets": targets}]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        files = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command = [program("prometheus"), *files, f"--web.listen-address=127.0.0.1:{port}"]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API; None while it cannot be asked."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10.0) as answer:
                return json.load(answer)["data"]
        except OSError as error:
            assert self._process.poll() is None, self._log.read_text()
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:  # it reads its files
                raise AssertionError(f"{url}: {error.read().decode()}") from error
            return None

    def course(self, expr: str) -> list[tuple[dict[str, str], list[float]]]:
        """Labels and finite values, over the last ten seconds, of every series that an expression has."""
        now_s = time.time()
        found = self.get("query_range", query=expr, start=str(now_s - 10), end=str(now_s), step="1")
        series = found["result"] if found is not None else []
        courses = [(one["metric"], [float(value) for _, value in one["values"]]) for one in series]
        return [(labels, kept) for labels, values in courses if (kept := [v for v in values if math.isfinite(v)])]

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(DEADLINE_S)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None, deadline_s: float) -> bool:
    """Whether it came true in time; ends at once where `process` did."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s or (process is not None and process.poll() is not None):
            return condition()
        select.select([], [], [], 0.2)
    return True


def legend_labels(legend: str) -> set[str]:
    """The labels that a legend shows."""
    return set(re.findall(r"{{(\w+)}}", legend))
