"""docker-compose.yml brought up on the engine that DOCKER_HOST names, and what can be done to it."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
SERVICES = ("replay", "learner", "actor", "prometheus")
"""Not Grafana: its dashboards have tests of their own."""
COMMAND_S = 300.0
SCRAPE = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/metrics', timeout=4).read().decode())"


class Stack:
    """One run in containers, with volumes of its own; all of it is removed at the end."""

    def __init__(self, name: str, variables: Mapping[str, str]) -> None:
        self._name = f"shoal-test-{name}-{os.getpid()}"
        self._variables = {**variables, "COMPOSE_PROJECT_NAME": self._name}
        v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        self._command = ["docker", "compose"] if v2 else [shutil.which("docker-compose") or "docker-compose"]

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.compose("ps"), self.logs())
        self.compose("down", "--volumes", "--timeout", "5")

    def compose(self, *arguments: str) -> str:
        """`docker compose ...`; what it printed."""
        return self._run([*self._command, *arguments])

    def up(self, **scale: int) -> None:
        """Start what is not running, with so many containers of a service."""
        counts = [word for service, count in scale.items() for word in ("--scale", f"{service}={count}")]
        self.compose("up", "-d", "--no-build", *counts, *SERVICES)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self._variables},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def containers(self, service: str) -> list[str]:
        """Of a service, those that run."""
        labels = {"project": self._name, "service": service, "oneoff": "False"}
        filters = [
            w for name, value in labels.items() for w in ("--filter", f"label=com.docker.compose.{name}={value}")
        ]
        return self._run(["docker", "ps", "-q", *filters]).split()

    def logs(self, *services: str) -> str:
        """What the services said."""
        return self.compose("logs", "--no-color", "--tail", "100", *services)

    def metrics(self, service: str = "learner") -> dict[str, float]:
        """Samples of the first container's /metrics by name and labels; nothing while it does not answer."""
        found = self.containers(service)
        if not found:
            return {}
        command = ["docker", "exec", found[0], "python3", "-c", SCRAPE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        samples = re.findall(r"^shoal_(\S+) (\S+)$", done.stdout, re.M)
        return {name: float(value) for name, value in samples}

    def prometheus(self, query: str) -> list[dict[str, object]]:
        """What Prometheus answers."""
        code = (
            "import sys, urllib.request as r, urllib.parse as p; "
            "print(r.urlopen('http://prometheus:9090/api/v1/query?' + p.urlencode({'query': sys.argv[1]}), timeout=9)"
            ".read().decode())"
        )
        said = self._run(["docker", "exec", self.containers("learner")[0], "python3", "-c", code, query])
        answer: list[dict[str, object]] = json.loads(said)["data"]["result"]
        return answer

    def kill(self, service: str) -> None:
        """SIGKILL to the process of its first container, as a crash or the kernel would: the engine must notice."""
        container = self.containers(service)[0]
        pid = self._run(["docker", "inspect", "-f", "{{.State.Pid}}", container]).strip()
        image = self._run(["docker", "inspect", "-f", "{{.Image}}", container]).strip()
        killer = [
            "docker",
            "run",
            "--rm",
            "--pid",
            "host",
            "--cap-add",
            "KILL",
            "--user",
            "0",
            "--entrypoint",
            "python3",
        ]
        self._run([*killer, image, "-c", f"import os; os.kill({pid}, 9)"])

    def restarts(self, service: str) -> int:
        """How often the engine has started its containers again."""
        return sum(
            int(self._run(["docker", "inspect", "-f", "{{.RestartCount}}", container]))
            for container in self.containers(service)
        )


def image_bytes(image: str) -> int:
    """How large an image is, all layers together."""
    command = ["docker", "image", "inspect", "-f", "{{.Size}}", image]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return int(done.stdout)


def wait(stack: Stack, condition: Callable[[], bool], what: str, deadline_s: float) -> float:
    """Until it holds; the seconds that it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < deadline_s, f"{what} did not happen within {deadline_s:g} s\n{stack.logs()}"
        select.select([], [], [], 0.2)
    return time.monotonic() - began_s
