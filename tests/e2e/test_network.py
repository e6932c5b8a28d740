"""Actors behind a bad network: late, slow, cut, partitioned. The run goes on, and they come back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.processes import HOME
from tests.e2e.proxy import Proxy
from tests.e2e.runs import SMALL_PPO, Train, env_steps, finish, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
RUN = ("--algorithm", "ppo", "--env-steps", "100000000", "--actors", "1", "--envs-per-actor", "4")
NETWORK = ("network.keepalive_s=1", "faults.rejoin_grace_s=1", *SMALL_PPO)


class Far:
    """A run, and an actor of it behind a proxy."""

    def __init__(self, train: Train, folder: Path) -> None:
        self.folder = folder
        self.run = train(*RUN, "--set", *NETWORK)
        self._log = folder / "run" / "logs" / "learner.log"
        self.wait("listens on")
        found = re.search(r"listens on 127\.0\.0\.1:(\d+)", self._log.read_text())
        assert found is not None
        self.proxy = Proxy(int(found[1]))
        address = f"127.0.0.1:{self.proxy.port}"
        with (folder / "far.log").open("wb") as log:
            self.actor = subprocess.Popen(
                [sys.executable, "-m", "shoal", "actor", "--learner", address],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(HOME)},
                stdout=log,
                stderr=log,
            )

    def wait(self, words: str, times: int = 1) -> None:
        """Until the learner has said so."""

        def said() -> bool:
            assert times == 1 or self.actor.poll() is None, (self.folder / "far.log").read_text()
            return self._log.exists() and len(re.findall(words, self._log.read_text())) >= times

        wait_until(said, self.run, words)

    def wait_for_progress(self) -> None:
        """Until more was learned than now."""
        at = env_steps(self.folder)
        wait_until(lambda: env_steps(self.folder) > at + 200, self.run, "progress")

    def close(self) -> None:
        self.proxy.partition(False)
        self.run.send_signal(signal.SIGINT)
        finish(self.run)
        if self.actor.poll() is None:
            self.actor.send_signal(signal.SIGTERM)
        self.actor.wait(20.0)
        self.proxy.close()


@pytest.fixture
def far(train: Train, tmp_path: Path) -> Iterator[Far]:
    far = Far(train, tmp_path)
    yield far
    far.close()


def test_a_bad_network_costs_time_and_nothing_else(far: Far) -> None:
    """One run through all of it: starting one takes longer than what is done to it."""
    far.wait("slot 1: joined")
    for _ in range(3):
        far.wait_for_progress()
        far.proxy.cut()
    far.wait_for_progress()
    far.proxy.delay_s, far.proxy.bytes_per_s = 0.02, 1e6
    far.wait_for_progress()
    log = (far.folder / "run" / "logs" / "learner.log").read_text()
    assert "slot 2" not in log, "it comes back in the same seat"
    assert "goes on without" not in log
    far.proxy.delay_s, far.proxy.bytes_per_s = 0.0, None

    joined = log.count("slot 1: joined")
    far.proxy.partition(True)
    far.wait("goes on without slot 1")  # neither end was told: keepalive notices
    far.wait_for_progress()
    far.proxy.partition(False)
    far.wait("slot 1: joined", times=joined + 1)
    far.wait_for_progress()
    assert far.actor.poll() is None
