"""Whole runs by the command on a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import env_steps, finish, free_ports, records, summary, wait_until
from tests.ray_cluster.conftest import RayCluster, Start

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]
ENDLESS = ("--algorithm", "ppo", "--env", "CartPole-v1", "--env-steps", "100000000", "--envs-per-actor", "2")


def train(cluster: RayCluster, *arguments: str) -> list[str]:
    return ["train", "--launcher", "ray", "--address", cluster.address, "--run-dir", "run", *arguments]


def acting(folder: Path) -> int:
    """Actors in the run, as the learner said last."""
    return int([0, *(r["actors"] for r in records(folder) if r.get("kind") == "progress")][-1])


def lives(folder: Path, of: str) -> int:
    """How often processes of that kind were started: all nodes are on this machine and write into the run directory."""
    logs = (folder / "run" / "logs").glob(f"{of}*.log")
    return sum(log.read_text().count(f" {of} --") for log in logs)


def targets(folder: Path) -> list[dict[str, Any]]:
    path = folder / "run" / "logs" / "scrape-targets.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def jobs(folder: Path) -> list[str]:
    return sorted(one["labels"]["job"] for one in targets(folder))


def scraped(folder: Path) -> list[str]:
    """At the addresses of their nodes; those of the tests are 127.0.1.N."""
    found = [target for one in targets(folder) for target in one["targets"]]
    assert not any(target.startswith("127.0.0.1:") for target in found)
    return found


def first_line(process: subprocess.Popen[str]) -> str:
    """What a driver shows first, but for the page's address: from there on it follows the run."""
    assert process.stdout is not None
    return next((line for line in process.stdout if not line.startswith("page ")), "")


def manager() -> int:
    """Its process."""
    return next(
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if entry.read_bytes().startswith(b"ray::Manager")
    )


def test_a_run_trains_to_its_end(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    few = ("--algorithm", "dqn", "--env", "CartPole-v1", "--env-steps", "3000", "--actors", "2")
    code, out = finish(shoal(*train(cluster, *few)))
    assert code == 0, out
    assert summary(tmp_path)["env_steps"] >= 3000
    log = (tmp_path / "run" / "logs" / "actor-1.log").read_text()
    assert re.search(r"joined (?!127)[\d.]+:\d+ as slot 1", log)  # by the node's address, not loopback
    assert (tmp_path / "run" / "logs" / "ray-token").stat().st_mode & 0o777 == 0o600
    again, out = finish(shoal("scale", "run", "3"))
    assert again == 2
    assert "does not go on" in out


def test_too_few_cpus_are_said_at_once(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    code, out = finish(shoal(*train(cluster, *ENDLESS, "--actors", "9")))
    assert code == 2
    assert "has 4 CPUs on 2 nodes" in out
    assert "needs 10: learner 1, actors 9" in out
    assert not (tmp_path / "run").exists()


def test_a_run_waits_for_nodes_that_come(cluster: RayCluster, head: RayCluster, shoal: Start, tmp_path: Path) -> None:
    run = shoal(*train(cluster, *ENDLESS, "--actors", "5", "--wait-for-nodes", "60"))
    node = head.add()
    try:
        wait_until(lambda: env_steps(tmp_path) > 0 and acting(tmp_path) == 5, run, "five actors")
        run.send_signal(signal.SIGINT)
        code, out = finish(run)
        assert code == 130, out
    finally:
        head.remove(node)


def test_actors_come_and_go(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    learner, *actors = free_ports(4)
    ports = (f"network.metrics_port={learner}", f"network.actor_metrics_port={actors[0]}")
    run = shoal(*train(cluster, *ENDLESS, "--actors", "1", "--policy-lag", "async", "--set", *ports))
    wait_until(lambda: env_steps(tmp_path) > 0, run, "training")
    code, out = finish(shoal("scale", "run", "3"))
    assert (code, out.strip()) == (0, "run: 3 actors instead of 1")
    wait_until(lambda: acting(tmp_path) == 3, run, "three actors")
    wait_until(lambda: jobs(tmp_path) == ["actor", "actor", "actor", "learner"], run, "all to be scraped")
    for target in scraped(tmp_path):
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10.0) as answer:
            assert b"shoal_" in answer.read()
    code, out = finish(shoal("scale", "run", "2"))
    assert (code, out.strip()) == (0, "run: 2 actors instead of 3")
    wait_until(lambda: acting(tmp_path) == 2, run, "two actors")
    wait_until(lambda: jobs(tmp_path) == ["actor", "actor", "learner"], run, "one target less")
    code, out = finish(shoal("scale", "run", "7"))
    assert code == 2
    assert "needs 8: learner 1, actors 7" in out
    run.send_signal(signal.SIGTERM)
    code, out = finish(run)
    assert code == 143, out
    assert "is started again" not in out
    assert "page http://127.0.0.1:" in out


def test_a_lost_nodes_actors_come_back(cluster: RayCluster, head: RayCluster, shoal: Start, tmp_path: Path) -> None:
    node = head.add()
    run = shoal(*train(cluster, *ENDLESS, "--actors", "3", "--policy-lag", "async"))
    wait_until(lambda: env_steps(tmp_path) > 0 and acting(tmp_path) == 3, run, "three actors")
    assert lives(tmp_path, "actor") == 3
    head.remove(node)
    wait_until(lambda: lives(tmp_path, "actor") > 3, run, "an actor's second life")
    wait_until(lambda: acting(tmp_path) == 3, run, "three actors again")
    assert lives(tmp_path, "learner") == 1
    run.send_signal(signal.SIGINT)
    code, out = finish(run)
    assert code == 130, out
    assert "was lost with its Ray worker or node" in out


def test_a_lost_manager_comes_back(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    often = "checkpoint.every_env_steps=500"
    run = shoal(*train(cluster, *ENDLESS, "--actors", "1", "--set", often))
    checkpoints = tmp_path / "run" / "checkpoints"
    wait_until(lambda: sum(1 for _ in checkpoints.glob("*/meta.json")) > 2, run, "checkpoints")
    code, out = finish(shoal("scale", "run", "2"))
    assert code == 0, out
    wait_until(lambda: acting(tmp_path) == 2, run, "two actors")
    os.kill(manager(), signal.SIGKILL)
    wait_until(lambda: lives(tmp_path, "learner") == 2, run, "the learner's second life")
    wait_until(lambda: lives(tmp_path, "actor") == 4, run, "two actors again")
    before = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > before, run, "more training")
    run.send_signal(signal.SIGINT)
    code, out = finish(run)
    assert code == 130, out
    assert "from its newest checkpoint" in out


def test_the_learner_goes_where_a_gpu_is(cluster: RayCluster, head: RayCluster, shoal: Start, tmp_path: Path) -> None:
    node = head.add(num_gpus=1)
    few = ("--algorithm", "dqn", "--env", "CartPole-v1", "--env-steps", "1000")
    try:
        code, out = finish(shoal(*train(cluster, *few, "--device", "auto")))
        assert code == 0, out
        assert f"learner listens on {node.node_ip_address}:" in (tmp_path / "run" / "logs" / "learner.log").read_text()
        assert (
            f"replay server listens on {node.node_ip_address}:"
            in (tmp_path / "run" / "logs" / "replay.log").read_text()
        )
    finally:
        head.remove(node, orderly=True)


def test_cuda_without_a_gpu_is_refused(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    code, out = finish(shoal(*train(cluster, *ENDLESS, "--device", "cuda")))
    assert code == 2
    assert "no node of the Ray cluster has a GPU" in out
    assert not (tmp_path / "run").exists()


def test_the_driver_may_leave_and_come_back(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    first = shoal(*train(cluster, *ENDLESS, "--actors", "1"))
    wait_until(lambda: env_steps(tmp_path) > 0, first, "training")
    first.send_signal(signal.SIGHUP)
    code, out = finish(first)
    assert code == 129
    assert "shoal attach run" in out
    second = shoal("attach", "run")
    assert "env steps" in first_line(second)
    before = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > before, second, "more training")
    second.kill()  # no goodbye
    second.communicate()
    third = shoal(*train(cluster, *ENDLESS))
    assert "env steps" in first_line(third)
    before = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > before, third, "still more training")
    third.send_signal(signal.SIGINT)
    code, out = finish(third)
    assert code == 130
    assert "This run is under way: attached to it" in out
    assert "to continue: shoal train --launcher ray --resume --run-dir run" in out
    resumed = shoal(*train(cluster, "--resume"))
    before = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > before, resumed, "training after --resume")
    resumed.send_signal(signal.SIGTERM)
    assert finish(resumed)[0] == 143
    assert "resumed from" in (tmp_path / "run" / "logs" / "learner.log").read_text()


def test_settings_that_a_learner_refuses_leave_no_run(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    code, out = finish(shoal(*train(cluster, "--algorithm", "ppo", "--env", "NoSuch-v0")))
    assert code == 2
    assert "NoSuch" in out
    assert not (tmp_path / "run").exists()


def test_no_cluster_is_said(shoal: Start) -> None:
    code, out = finish(shoal("train", "--launcher", "ray", "--address", "127.0.0.1:1", "--run-dir", "run"))
    assert code == 2
    assert "nobody answers there" in out
