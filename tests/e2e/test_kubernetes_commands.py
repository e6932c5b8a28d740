"""The command lines of deploy/kubernetes on this machine: they find each other, and a preempted learner goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core import checkpoint
from shoal.processes import HOME
from tests.e2e.runs import DEADLINE_S, free_ports, wait_until
from tests.kustomize import FOLDER, render, workloads

pytestmark = [pytest.mark.slow, pytest.mark.long]
FAST = ("--set", "dqn.min_size=200", "checkpoint.every_s=0.2", "evaluation.episodes=1")


class Pods:
    """The containers of the base as processes, with ports of this machine and folders of this test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        objects = render(FOLDER / "base")
        self._arguments = {c["name"]: c["args"] for _, _, c in workloads(objects)}
        (settings,) = [o for o in objects if o["kind"] == "ConfigMap"]
        (folder / "run.yaml").write_text(settings["data"]["run.yaml"])
        said = subprocess.run([FOLDER / "tokens.sh"], capture_output=True, text=True, check=True, timeout=30).stdout
        for secret in yaml.safe_load_all(said):
            (folder / secret["metadata"]["name"]).write_text(secret["stringData"]["tokens"])
        ports = free_ports(5)
        self.http = dict(zip(("learner", "replay", "actor"), ports, strict=False))
        self._here = {
            "shoal-replay-0.shoal-replay:7500": f"127.0.0.1:{ports[3]}",
            "shoal-learner:7400": f"127.0.0.1:{ports[4]}",
            "0.0.0.0:7500": f"0.0.0.0:{ports[3]}",
            "0.0.0.0:7400": f"0.0.0.0:{ports[4]}",
            "/etc/shoal/run.yaml": str(folder / "run.yaml"),
            "/runs/run": str(folder / "runs" / "run"),
            "/data/tables": str(folder / "data" / "tables"),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, role: str, *more: str) -> subprocess.Popen[str]:
        flags = [flag.partition("=") for flag in self._arguments[role]]
        command = [f"{name}{is_}{self._here.get(value, value)}" for name, is_, value in flags]
        command = [re.sub(r"(?<=--metrics-port=)9100", str(self.http[role]), word) for word in command]
        secret = "shoal-actor-tokens" if role == "actor" else "shoal-service-tokens"
        environment = {**os.environ, "PYTHONPATH": str(HOME), "SHOAL_TOKEN_FILE": str(self.folder / secret)}
        with (self.folder / f"{role}-{len(self.started)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "shoal", *command, *more], stdout=log, stderr=log, text=True, env=environment
            )
        self.started.append(process)
        return process

    def learner(self) -> subprocess.Popen[str]:
        return self.start("learner", *FAST, f"network.metrics_port={self.http['learner']}")

    def answers(self, role: str, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http[role]}{path}", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def newest(self) -> int:
        """Env steps of the newest checkpoint."""
        found = checkpoint.all_in(self.folder / "runs" / "run" / "checkpoints")
        return max((int(path.name) for path in found if path.name.isdigit()), default=-1)

    def logs(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()}" for log in sorted(self.folder.glob("*.log")))


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    started = Pods(tmp_path)
    yield started
    for process in started.started:
        process.kill()
        process.wait(DEADLINE_S)


def test_a_preempted_learner_is_no_finished_job_and_goes_on(pods: Pods) -> None:
    pods.start("replay")
    actor = pods.start("actor")
    learner = pods.learner()
    wait_until(lambda: pods.newest() > 0, learner, f"a checkpoint\n{pods.logs()}")
    for role in ("learner", "replay", "actor"):
        wait_until(lambda role=role: pods.answers(role, "/readyz"), learner, f"{role} is ready")  # type: ignore[misc]
    learner.send_signal(signal.SIGTERM)
    assert learner.wait(DEADLINE_S) == 128 + signal.SIGTERM, pods.logs()
    assert actor.wait(DEADLINE_S) == 0, pods.logs()
    reached = pods.newest()
    pods.start("actor")  # as the kubelet does
    again = pods.learner()
    wait_until(lambda: pods.newest() > reached, again, f"a further checkpoint\n{pods.logs()}")
    again.send_signal(signal.SIGTERM)
    assert again.wait(DEADLINE_S) == 128 + signal.SIGTERM, pods.logs()
