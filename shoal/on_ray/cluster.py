"""The Ray cluster as Shoal sees it: connecting, what it has against what a run needs, and where the run is at home."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError

NAMESPACE = "shoal"
LOOK_EVERY_S = 0.5
SETTLE_S = 5.0
"""How long CPUs that a run gave back just now may take to be counted as free."""
PROBE_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 30.0
REACH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Needs:
    """CPUs of a run's parts; the learner and the replay server are on the same node."""

    learner_cpus: int
    replay_cpus: int
    actors: int

    @property
    def cpus(self) -> int:
        """Of all together."""
        return self.learner_cpus + self.replay_cpus + self.actors

    def __str__(self) -> str:
        replay = f", replay server {self.replay_cpus}" if self.replay_cpus else ""
        return f"{self.cpus}: learner {self.learner_cpus}{replay}, actors {self.actors} (1 each)"


@dataclass(frozen=True)
class Home:
    """The node of manager, learner and replay server."""

    node: str
    host: str
    gpus: int


def import_ray() -> Any:
    """Raises ConfigError where Ray is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError("this needs Ray, which is not installed here: pip install 'shoal[ray]'") from None
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`; a connection that stood before is used and kept.

    Raises ConfigError where there is no such cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    check_address(address)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: no Ray cluster can be used there ({str(error).strip().splitlines()[0]}); "
            "start one with `ray start --head`, or `ray up`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise ConfigError where no cluster can be reached: Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: run this on a node of the cluster (ray exec, ray job submit), with auto"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--address {address}: nobody answers there ({error}); `ray start --head` says the address"
        ) from None


def check_room(needs: Needs, wait_s: float = 0.0, *, owned: int = 0) -> None:
    """Raise ConfigError where the cluster has too few CPUs, beside the `owned` ones that the run has already.

    With `wait_s` the autoscaler, if there is one, is asked for them, and so long is waited.
    """
    with _requested(needs.cpus if wait_s and _problem(needs, owned) else 0):
        _wait_for_room(needs, wait_s, owned)


@contextlib.contextmanager
def _requested(cpus: int) -> Iterator[None]:
    """So many CPUs are asked of the autoscaler; afterwards no more, for it would keep their nodes for good."""
    if not cpus:
        yield
        return
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=cpus)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _wait_for_room(needs: Needs, wait_s: float, owned: int) -> None:
    start_s = time.monotonic()
    while (problem := _problem(needs, owned)) is not None:
        patience_s = max(wait_s, SETTLE_S if _total() >= needs.cpus else 0.0)
        if time.monotonic() - start_s >= patience_s:
            raise ConfigError(problem)
        time.sleep(LOOK_EVERY_S)


def check_trials(cpus: int, together: int) -> None:
    """Raise ConfigError where there is no room for `together` trials of a sweep, each on one node, at the same time."""
    import ray

    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    if max(nodes, default=0.0) < cpus:
        raise ConfigError(
            f"actors: a trial is on one node and needs {cpus} CPUs; the largest of the Ray cluster has "
            f"{max(nodes, default=0.0):g}. Lower --actors, or add a larger node"
        )
    room = sum(int(node // cpus) for node in nodes)
    if room < together:
        raise ConfigError(
            f"--trials {together}: a population (pbt) trains at the same time, {cpus} CPUs each on one node, and the "
            f"Ray cluster has room for {room}. Lower --trials or --actors, or add nodes"
        )


def _total() -> float:
    import ray

    return float(ray.cluster_resources().get("CPU", 0.0))


def _problem(needs: Needs, owned: int) -> str | None:
    """What the cluster has and what is needed; None where it is enough."""
    import ray

    total, nodes = _total(), [node for node in ray.nodes() if node["Alive"]]
    free = float(ray.available_resources().get("CPU", 0.0))
    if free + owned >= needs.cpus:
        return None
    on = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return (
        f"actors: the Ray cluster has {total:g} CPUs on {on}, {free + owned:g} of them for this run, "
        f"which needs {needs}. Lower --actors, add nodes, or let them be waited for: --wait-for-nodes SECONDS"
    )


def choose_home(device: str, run_dir: Path, needs: Needs) -> Home:
    """The driver's node, for it has the run directory; one with a GPU, if that has the run directory too.

    Raises ConfigError where `device` is cuda and there is no such node, or the node has too few CPUs.
    """
    import ray

    own_id = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    own, with_gpu = nodes[own_id], [node for node in nodes.values() if node["Resources"].get("GPU", 0) >= 1]
    if device == "cpu" or (not with_gpu and device == "auto"):
        return _home(own, 0, needs)
    for node in sorted(with_gpu, key=lambda node: node["NodeID"] != own_id):
        if node is own or _sees(node, run_dir):
            return _home(node, 1, needs)
    if device == "cuda":
        what = "no node of the Ray cluster has a GPU" if not with_gpu else f"no node with a GPU has {run_dir}"
        raise ConfigError(f"device: {what}; start the run on one, or use a folder that all nodes share")
    return _home(own, 0, needs)


def _home(node: Mapping[str, Any], gpus: int, needs: Needs) -> Home:
    cpus, wanted = node["Resources"].get("CPU", 0.0), needs.learner_cpus + needs.replay_cpus
    if cpus < wanted:
        raise ConfigError(
            f"actors: the node {node['NodeManagerAddress']}, which has the run directory, has {cpus:g} CPUs, and "
            f"{wanted} are needed on it: learner {needs.learner_cpus}, replay server {needs.replay_cpus}"
        )
    return Home(node["NodeID"], node["NodeManagerAddress"], gpus)


def _sees(node: Mapping[str, Any], run_dir: Path) -> bool:
    """Whether that node has the run directory, too: the driver has just written a file there."""
    import ray

    probe = ray.remote(num_cpus=0, max_retries=0)(_is_file)
    there = probe.options(scheduling_strategy=on_node(node["NodeID"])).remote(str(run_dir / "config.yaml"))
    try:
        return bool(ray.get(there, timeout=PROBE_TIMEOUT_S))
    except ray.exceptions.RayError:
        return False


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def on_node(node: str) -> Any:
    """Ray's word for: on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)
