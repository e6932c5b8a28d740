"""A Ray cluster of several nodes on this machine, for all tests here; each test leaves it as it found it.

Only the head has the machine's own address, so drivers, and the learners that stay with them, are at home there.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.on_ray import driver
from shoal.on_ray.cluster import import_ray
from shoal.processes import HOME
from shoal.run_dir import RunDir
from tests.e2e import runs

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "PYTHONPATH": str(HOME),
}
STORE_BYTES = 80 << 20
DEADLINE_S = 180.0
"""Each step starts several Python processes of Ray's one after the other; a busy machine takes its time."""
SWEEP_S = 300.0
Start = Callable[..., "subprocess.Popen[str]"]


class RayCluster:
    """Two CPUs at the head, where drivers are, and two on each further node; more nodes may be added and removed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        head["_system_config"] = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        self._hosts = (f"127.0.1.{number}" for number in range(1, 255))

    def add(self, **resources: Any) -> Any:
        """One more node."""
        given = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "node_ip_address": next(self._hosts)}
        node = self._cluster.add_node(**{**given, **resources})
        self._cluster.wait_for_nodes()
        return node

    def remove(self, node: Any, *, orderly: bool = False) -> None:
        """As if its machine were switched off, or in order."""
        if node in self._cluster.worker_nodes:
            self._cluster.remove_node(node, allow_graceful=orderly)

    def shutdown(self) -> None:
        """End it all."""
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def head() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith("SHOAL_")]:
            patch.delenv(name)
        cluster = RayCluster()
        yield cluster
        cluster.shutdown()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of it than runs on one machine need."""
    monkeypatch.setattr(runs, "DEADLINE_S", DEADLINE_S)


@pytest.fixture
def cluster(head: RayCluster) -> Iterator[RayCluster]:
    """The head and one more node."""
    node = head.add()
    yield head
    head.remove(node, orderly=True)


@pytest.fixture
def shoal(cluster: RayCluster, tmp_path: Path) -> Iterator[Start]:
    """Start `shoal ...` beside the cluster's head; what still runs at the end is stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(runs.shoal(tmp_path, *arguments))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    run = RunDir(tmp_path / "run")
    if run.ray_run.is_file() and driver.goes_on(run.path):  # a test that failed
        with driver.manager_of(run) as left:
            import_ray().kill(left, no_restart=True)


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output of a sweep."""
    out, err = process.communicate(timeout=SWEEP_S)
    return process.returncode, out + err
