"""Searches with Ray Tune on a cluster on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import summary
from tests.ray_cluster.conftest import RayCluster, Start, wait_for_end

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("default")]
SMALL = ("--algorithm", "ppo", "--env", "CartPole-v1", "--env-steps", "6000", "--run-dir", "sweep")


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "sweep" / "sweep.json").read_text())
    return found


def test_a_grid_ranks_all_combinations(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    vary = ("--vary", "ppo.learning_rate=2e-3,1e-9", "ppo.epochs=4")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, "--search", "grid", *vary))
    assert code == 0, out
    found = trials(tmp_path)
    assert {(t["values"]["ppo.learning_rate"], t["values"]["ppo.epochs"]) for t in found} == {(2e-3, 4), (1e-9, 4)}
    assert found[0]["mean_return"] >= found[1]["mean_return"]
    assert all(t["env_steps"] >= 6000 and t["error"] == "" for t in found)
    assert f"best: --set ppo.learning_rate={found[0]['values']['ppo.learning_rate']:.4g}" in out
    assert (tmp_path / "sweep" / "sweep.png").is_file()
    assert summary(tmp_path, f"sweep/trials/{found[0]['id']}")["ended"] == "budget"


def test_asha_stops_the_worse_ones_early(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    vary = ("--vary", "ppo.learning_rate=2e-3,1e-9", "--trials", "4", "--at-once", "1")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, "--search", "asha", *vary))
    assert code == 0, out
    found = trials(tmp_path)
    assert len(found) == 4
    assert min(t["env_steps"] for t in found) < 6000 <= max(t["env_steps"] for t in found)


def test_a_population_exchanges_params(cluster: RayCluster, shoal: Start, tmp_path: Path) -> None:
    vary = ("--vary", "ppo.learning_rate=1e-9..2e-3:log", "--trials", "2", "--env-steps", "30000")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, "--search", "pbt", *vary))
    assert code == 0, out
    found = trials(tmp_path)
    assert (tmp_path / "sweep" / "tune" / "pbt_global.txt").read_text()  # a line for each exchange
    assert all(t["env_steps"] >= 30000 and t["error"] == "" for t in found)
    logs = [tmp_path / "sweep" / "trials" / t["id"] / "logs" / "learner.log" for t in found]
    assert any("resumed from" in log.read_text() for log in logs)


def test_a_space_that_a_run_refuses_is_said_before_anything_starts(
    cluster: RayCluster, shoal: Start, tmp_path: Path
) -> None:
    vary = ("--vary", "ppo.gama=0.9,0.99")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, *vary))
    assert code == 2
    assert "'ppo.gamma'" in out
    assert not (tmp_path / "sweep").exists()


def test_a_population_without_room_is_refused(cluster: RayCluster, shoal: Start) -> None:
    vary = ("--vary", "ppo.epochs=1,2", "--search", "pbt", "--trials", "3")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, *vary))
    assert code == 2
    assert "has room for 2" in out


def test_a_trial_that_no_node_has_room_for_is_refused(cluster: RayCluster, shoal: Start) -> None:
    vary = ("--vary", "ppo.epochs=1,2", "--actors", "7")
    code, out = wait_for_end(shoal("sweep", *SMALL, "--address", cluster.address, *vary))
    assert code == 2
    assert "needs 8 CPUs; the largest of the Ray cluster has 2" in out
