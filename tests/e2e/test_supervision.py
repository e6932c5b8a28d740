"""The launcher and its children, as real processes; the children are tests/e2e/fake_shoal.py."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.data_place import sweep
from shoal.processes import HOME
from shoal.supervised import EXIT_ORPHANED

pytestmark = pytest.mark.slow
FAKE = Path(__file__).with_name("fake_shoal.py")
DEADLINE_S = 30.0
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the launcher makes its socket folder; a short path, as sockets need."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def launch(tmp_path: Path, sockets: Path) -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []

    def start(scenario: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(FAKE), scenario, "launch", "--run-dir", str(tmp_path / "run"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(HOME), "TMPDIR": str(sockets)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline_s, f"{path} did not appear"
        assert process.poll() is None, process.communicate()
        select.select([], [], [], 0.005)


def children_of(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def all_end(pids: list[int], timeout_s: float) -> bool:
    """Wait on the processes themselves."""
    deadline_s = time.monotonic() + timeout_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            (ended := select.poll()).register(handle, select.POLLIN)
            if not ended.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                return False
        finally:
            os.close(handle)
    return True


def test_a_run_ends_with_its_result_and_nothing_left(launch: Launch, tmp_path: Path, sockets: Path) -> None:
    process = launch("happy", "--actors", "2")
    out, err = process.communicate(timeout=DEADLINE_S)
    run = tmp_path / "run"
    assert process.returncode == 0, err
    assert "100 env steps" in out
    assert f"shoal eval {run} --video" in out
    assert sorted(p.name for p in (run / "logs").glob("*.log")) == ["actor-0.log", "actor-1.log", "learner.log"]
    assert (run / "learning_curve.png").stat().st_size > 10_000
    assert not list(sockets.iterdir())


def test_the_replay_server_is_started_when_the_learner_asks(launch: Launch, tmp_path: Path) -> None:
    process = launch("replay", "--algorithm", "dqn", "--set", "network.replay_metrics_port=0")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert (tmp_path / "run/logs/replay.log").exists()
    (life,) = replays(tmp_path)
    assert (life["listen"], life["metrics"]) == ("127.0.0.1:0", "0")
    assert not Path(life["data_dir"]).exists(), "the tables were the run's own"


def replays(tmp_path: Path) -> list[dict[str, str]]:
    """How the fake replay server was started, in each of its lives."""
    return [json.loads(line) for line in (tmp_path / "run/logs/replays").read_text().splitlines()]


def test_a_replay_server_that_is_killed_comes_back_where_it_was(launch: Launch, tmp_path: Path) -> None:
    process = launch("replay-killed", "--algorithm", "dqn")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert out.count("replay was killed by SIGKILL") == 2
    assert "It is started again in 1 s (restart 2 of 3), with its tables." in out
    first, *others = replays(tmp_path)
    assert first["listen"] == "127.0.0.1:0"
    assert [life["listen"] for life in others] == ["127.0.0.1:7777"] * 2
    assert {life["data_dir"] for life in others} == {first["data_dir"]}
    assert Path(first["data_dir"]).parent == Path(f"/dev/shm/shoal-{os.getuid()}")
    assert not Path(first["data_dir"]).exists()


def test_tables_are_kept_where_the_user_says(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    process = launch("replay-killed", "--algorithm", "dqn", "--data-dir", "kept")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert (tmp_path / "kept/lives").read_text() == "one\n" * 3
    (tmp_path / "kept/experience").mkdir()
    (tmp_path / "kept/experience/definition.json").touch()
    process = launch("replay", "--algorithm", "dqn", "--data-dir", "kept", "--resume")  # a run without a checkpoint
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    process = launch("replay", "--algorithm", "dqn", "--data-dir", "kept", "--overwrite")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "replay_data_dir: kept holds experience of another run; go on with that one by --resume" in err


def test_a_replay_server_beyond_its_budget_ends_the_run(launch: Launch, tmp_path: Path) -> None:
    process = launch("replay-hopeless", "--algorithm", "dqn", "--set", "faults.restarts=1")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 137
    assert out.count("It is started again (restart 1 of 1), with its tables.") == 1
    assert "Its restarts are used up (faults.restarts 1)." in err
    assert not Path(replays(tmp_path)[0]["data_dir"]).exists()


def test_tables_in_memory_end_with_their_server(launch: Launch) -> None:
    process = launch("replay-killed", "--algorithm", "dqn", "--data-dir", "memory")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 137
    assert "started again with its tables" not in out
    assert "Its tables were in its memory and are gone; with --data-dir DIR it would be started again" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_tables(launch: Launch, tmp_path: Path, number: int) -> None:
    process = launch("replay-waiting", "--algorithm", "dqn")
    wait_for(tmp_path / "run/logs/ready", process)
    folder = Path(replays(tmp_path)[0]["data_dir"])
    assert (folder / "lives").exists()
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)
    if number == signal.SIGKILL:
        assert folder.exists()
        sweep()
    assert not folder.exists()


def test_an_actor_that_dies_is_shown_and_started_again(launch: Launch) -> None:
    process = launch("restart")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert "actor-0 ended with exit code 3" in out
    assert "boom (seed 7, last action 1)" in out
    assert "restart 1 of 3" in out


def test_the_last_actor_beyond_its_budget_ends_the_run(launch: Launch) -> None:
    process = launch("hopeless", "--set", "faults.restarts=1")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    assert out.count("started again (restart") == 1
    assert "boom (seed 7, last action 1)" in err
    assert "No actor is left, and its restarts are used up." in err
    assert "Traceback" not in err


def test_with_others_left_the_run_goes_on(launch: Launch) -> None:
    process = launch("one-lost", "--actors", "2")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert "this actor cannot make the environment" in out
    assert "the run goes on with 1 actor." in out


def test_what_the_learner_refuses_is_said_verbatim_and_leaves_no_run(launch: Launch, tmp_path: Path) -> None:
    process = launch("refused")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert err == ("error: 2 problems:\n  - ppo.gama: no such setting\n  - ppo.clip: must be more than 0, not -1\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scenario", "code", "words"),
    [
        ("killed", 137, "learner was killed by SIGKILL (out of memory, or kill -9)"),
        ("bug", 1, "RuntimeError: a bug in the learner"),
    ],
)
@pytest.mark.parametrize("budget", [0, 1])
def test_the_learners_death_ends_the_run_when_its_restarts_are_used_up(
    launch: Launch, scenario: str, code: int, words: str, budget: int
) -> None:
    process = launch(scenario, "--set", f"faults.restarts={budget}")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert out.count("It is started again (restart 1 of 1), from the beginning: there is no checkpoint yet.") == budget
    assert words in err
    assert "learner.log" in err


def test_a_learner_that_comes_back_serves_its_page_at_the_same_port(launch: Launch, tmp_path: Path) -> None:
    """On the address that was asked for: what it says is one that can be opened."""
    process = launch("killed", "--set", "faults.restarts=1", "--page", "0.0.0.0:0")
    process.communicate(timeout=DEADLINE_S)
    first, second = re.findall(r"^--- .* learner (.*)$", (tmp_path / "run/logs/learner.log").read_text(), re.M)
    assert "--page" not in first
    assert "--page 0.0.0.0:7777" in second


def test_the_directory_of_a_running_run_is_refused(launch: Launch, tmp_path: Path) -> None:
    first = launch("waiting")
    wait_for(tmp_path / "run/logs/ready", first)
    for flag in ("--resume", "--overwrite"):
        process = launch("waiting", flag)
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert f"a run is using it (pid {first.pid})" in err
    assert first.poll() is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_in_order(launch: Launch, tmp_path: Path, number: int, code: int) -> None:
    process = launch("waiting", "--actors", "2")
    wait_for(tmp_path / "run/logs/ready", process)
    children = children_of(process.pid)
    assert len(children) == 3
    sent_s = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - sent_s < 3.0
    assert process.returncode == code, err
    assert err == "Stopped before there was anything to write into a checkpoint.\n"
    assert (tmp_path / "run/logs/stopped").exists()
    assert all_end(children, 0.0)
    assert "Traceback" not in err


def test_who_ignores_the_end_is_killed(launch: Launch, tmp_path: Path) -> None:
    process = launch("stubborn")
    wait_for(tmp_path / "run/logs/ready", process)
    children = children_of(process.pid)
    sent_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - sent_s < 3.5
    assert process.returncode == 130
    assert all_end(children, 0.0)


def test_kill_9_of_the_launcher_leaves_no_orphan(launch: Launch, tmp_path: Path) -> None:
    process = launch("stubborn", "--actors", "2")
    wait_for(tmp_path / "run/logs/ready", process)
    children = children_of(process.pid)
    assert len(children) == 3
    process.kill()
    assert all_end(children, 3.0)


def test_a_supervised_service_ends_with_its_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal", "replay", "--listen", f"unix:{tmp_path}/s", "--supervised"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=HOME, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(DEADLINE_S) == EXIT_ORPHANED


def test_a_learner_without_its_launcher_is_asked_to_end_first() -> None:
    code = (
        "import signal, sys; from shoal.supervised import end_with_parent\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); end_with_parent(grace_s=20.0); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=HOME)
    assert process.stdin is not None
    select.select([], [], [], 0.5)
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 7


def test_a_second_run_in_the_same_directory_is_refused(launch: Launch) -> None:
    assert launch("happy").wait(DEADLINE_S) == 0
    process = launch("happy")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "--resume" in err
    assert "--overwrite" in err
    assert launch("happy", "--overwrite").wait(DEADLINE_S) == 0
    assert launch("happy", "--resume").wait(DEADLINE_S) == 0
