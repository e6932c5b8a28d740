"""What of runs on Ray can be said without a cluster, and without Ray."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, to_plain
from core.errors import ConfigError
from shoal.cli import main
from shoal.on_ray import cluster, events
from shoal.on_ray.cluster import Needs, check_room
from shoal.on_ray.driver import manager_of, needs_of, scale
from shoal.on_ray.events import Ending, EventsView
from shoal.on_ray.supervisor import Supervisor, local_log
from shoal.on_ray.targets import Targets
from shoal.on_ray.trial import settings_of
from shoal.processes import HOME
from shoal.progress import Progress, Tail
from shoal.run_dir import RunDir, prepare


def test_without_ray_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["train", "--launcher", "ray", "--run-dir", str(tmp_path / "run")]) == 2
    assert "pip install 'shoal[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ray_is_imported_where_it_is_used_only() -> None:
    code = "import sys, shoal.cli, shoal.training, shoal.on_ray.driver; print('ray' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr


def test_a_wait_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--wait-for-nodes", "nan"]) == 2
    assert "must be seconds from 0 to 86400" in capsys.readouterr().err


def test_the_targets_to_scrape_follow_the_processes(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    targets = Targets(path, 9100)
    for name, arguments, host in (
        ("learner", [], "10.0.0.1"),
        ("replay", ["--metrics-port", "9101"], "10.0.0.1"),
        ("actor-0", ["--metrics-port", "9110"], "10.0.0.2"),
        ("actor-1", ["--metrics-port", "9111"], "fd00::1"),
        ("actor-2", [], "10.0.0.2"),
    ):
        targets.placed(name, arguments, host)
    assert scraped(path) == [
        ("actor", "10.0.0.2:9110"),
        ("actor", "[fd00::1]:9111"),
        ("learner", "10.0.0.1:9100"),
        ("replay", "10.0.0.1:9101"),
    ]
    targets.placed("actor-0", ["--metrics-port", "9110"], "10.0.0.3")
    targets.placed("actor-1", ["--metrics-port", "9111"], None)
    assert scraped(path)[0] == ("actor", "10.0.0.3:9110")
    assert len(scraped(path)) == 3


def scraped(path: Path) -> list[tuple[str, str]]:
    return [(one["labels"]["job"], *one["targets"]) for one in json.loads(path.read_text())]


@pytest.mark.parametrize("fails", [False, True])
def test_nodes_that_were_asked_for_are_not_asked_for_any_more(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    asked: list[dict[str, Any]] = []
    sdk = types.ModuleType("ray.autoscaler.sdk")
    vars(sdk)["request_resources"] = lambda **what: asked.append(what)
    monkeypatch.setitem(sys.modules, sdk.__name__, sdk)
    problems = iter(["too few", "still" if fails else None])
    monkeypatch.setattr(cluster, "_problem", lambda needs, owned: next(problems))
    monkeypatch.setattr(cluster, "_total", lambda: 0.0)
    with pytest.raises(ConfigError, match="still") if fails else contextlib.nullcontext():
        check_room(Needs(1, 0, 7), 1e-9)
    assert asked == [{"num_cpus": 8}, {"bundles": []}]


def test_a_trials_settings_need_no_file_of_the_drivers(tmp_path: Path) -> None:
    base = to_plain(Config(algorithm="ppo", env="CartPole-v1", seed=7, run_dir="elsewhere"))
    config = settings_of(base, tmp_path / "trial", {"ppo.gamma": 0.5})
    assert (config.seed, config.run_dir, config.settings["gamma"]) == (7, str(tmp_path / "trial"), 0.5)


def test_needs_are_said_and_summed() -> None:
    assert Needs(2, 1, 5).cpus == 8
    assert str(Needs(2, 1, 5)) == "8: learner 2, replay server 1, actors 5 (1 each)"
    assert str(Needs(1, 0, 2)) == "3: learner 1, actors 2 (1 each)"


def test_only_a_replay_table_in_a_process_needs_its_cpu() -> None:
    assert needs_of(Config(algorithm="ppo", actors=3)) == Needs(1, 0, 3)
    assert needs_of(Config(algorithm="dqn", learner_threads=4)) == Needs(4, 1, 1)
    assert needs_of(Config(algorithm="dqn", replay="embedded")) == Needs(1, 0, 1)


def test_the_driver_reads_what_the_manager_wrote(tmp_path: Path) -> None:
    path = tmp_path / "events"
    view = EventsView(path)
    view.note("actor-1 was lost")
    view.scaled(5)
    progress = Progress("ppo", "X-v0", 100, None)
    for url in (None, "http://127.0.0.1:1/", "http://127.0.0.1:1/", "http://127.0.0.1:2/"):
        progress.page = url
        view.update(progress)
    view.scaled(3)
    records = Tail(path).read()
    assert events.notes(records) == ["actor-1 was lost"]
    assert (events.wanted(records, 9), events.wanted([], 9)) == (3, 9)
    assert events.ending(records) is None
    view.ended(Ending(7, "gone\nfor good"))
    assert events.ending(Tail(path).read()) == Ending(7, "gone\nfor good")


def test_a_run_that_is_not_on_ray_cannot_be_scaled(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ConfigError, match="holds no run on Ray"), manager_of(run):
        pass
    with pytest.raises(ConfigError, match="actors: must be at least 1"):
        scale(run, 0)


@pytest.mark.parametrize("address", ["ray://head:10001", "127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=f"--address {address}"):
        cluster.check_address(address)


def test_a_supervisor_reports_how_its_process_ended(tmp_path: Path) -> None:
    supervisor = Supervisor(str(tmp_path), {})
    result = supervisor.run("actor-0", ["actor", "--learner", "nowhere"], str(tmp_path / "x.log"))
    assert result["code"] != 0
    assert "nowhere" in result["words"]
    assert Path(result["log"]).read_text()


def test_a_node_without_the_run_directory_keeps_logs_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    there = prepare(tmp_path / "run")
    assert local_log(there.logs / "actor-1.log") == there.logs / "actor-1.log"
    other = local_log(Path("/not/here/run-7/logs/actor-1.log"))
    assert other.parent.name == "run-7"
    assert other.is_relative_to(tmp_path)
