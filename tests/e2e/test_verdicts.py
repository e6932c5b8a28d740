"""The bottleneck is made, in whole runs, and named: in the last line of progress and in summary.json."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.envs import MODULE
from tests.e2e.proxy import Proxy
from tests.e2e.runs import Train, finish, records, shoal, summary, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
PPO = ("--algorithm", "ppo", "--env-steps", "100000000", "--actors", "1")


def stop(run: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    run.send_signal(signal.SIGTERM)
    finish(run)
    return summary(folder)


@pytest.mark.parametrize(
    ("part", "flags", "words"),
    [
        ("actors", ("--env", f"{MODULE}:Slow-v0", "--set", "ppo.unroll_length=8", "ppo.epochs=1"), "more --actors"),
        ("learner", ("--set", "ppo.hidden=[512,512]", "ppo.epochs=20"), "a GPU"),
    ],
)
def test_a_slow_environment_and_a_slow_learner_are_named(
    train: Train, tmp_path: Path, part: str, flags: tuple[str, ...], words: str
) -> None:
    run = train(*PPO, *flags)
    wait_until(lambda: sum("bottleneck" in record for record in records(tmp_path)) > 2, run, "three verdicts")
    ended = stop(run, tmp_path)
    assert ended["bottleneck"] == part, ended["advice"]
    assert words in ended["advice"]


@pytest.mark.parametrize(
    ("part", "bytes_per_s", "delay_s", "words"),
    [
        ("window", 100e3, 0.0, "network.window_chunks"),
        ("network", None, 0.15, "a longer unroll"),
    ],
)
def test_a_small_window_and_a_slow_network_are_named(
    train: Train, tmp_path: Path, part: str, bytes_per_s: float | None, delay_s: float, words: str
) -> None:
    """An actor alone behind a slow line: its window is full all the time, or each round is a journey."""
    lag = "async" if part == "window" else "0"
    algorithm = ("--algorithm", "a2c", "--policy-lag", lag, "--env-steps", "100000000", "--actors", "1")
    settings = ("network.window_chunks=1", "a2c.unroll_length=64")
    folder = tmp_path / "run"
    flags = ("--envs-per-actor", "8", "--run-dir", str(folder), "--listen", "127.0.0.1:0", "--set", *settings)
    log = tmp_path / "learner.log"
    learner = shoal(tmp_path, "learner", *algorithm, *flags, log=log)
    wait_until(lambda: "listens on" in log.read_text(), learner, "the learner")
    found = re.search(r"listens on 127\.0\.0\.1:(\d+)", log.read_text())
    assert found is not None
    proxy = Proxy(int(found[1]))
    actor = shoal(tmp_path, "actor", "--learner", f"127.0.0.1:{proxy.port}", log=tmp_path / "actor.log")
    try:
        wait_until(lambda: bool(records(tmp_path)), learner, "the first steps")
        proxy.bytes_per_s, proxy.delay_s = bytes_per_s, delay_s
        many = len(records(tmp_path)) + 3
        wait_until(lambda: len(records(tmp_path)) > many, learner, "three verdicts more")
        newest = records(tmp_path)[-1]
        assert newest["bottleneck"] == part, newest
        assert words in newest["advice"]
    finally:
        proxy.bytes_per_s, proxy.delay_s = None, 0.0
        for process in (learner, actor):
            process.send_signal(signal.SIGTERM)
            process.wait(30.0)
        proxy.close()
