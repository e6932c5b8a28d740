"""A learner, a replay server and two actors, each on a host of its own; cables are pulled (`make test-network`)."""

import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.hosts import Hosts
from tests.e2e.runs import env_steps

pytestmark = pytest.mark.namespaces
DEADLINE_S = 60.0
RUN = (
    *("--algorithm", "dqn", "--env", "CartPole-v1", "--env-steps", "100000000", "--actors", "2"),
    *("--set", "network.keepalive_s=1", "faults.rejoin_grace_s=1", "dqn.min_size=200"),
)


def test_pulled_cables_cost_time_and_nothing_else(tmp_path: Path) -> None:
    with Hosts(tmp_path, "learner", "replay", "one", "two") as hosts:
        at = {name: f"{address}:7400" for name, address in hosts.address.items()}
        hosts.run("replay", "replay", "--listen", at["replay"], "--data-dir", str(tmp_path / "tables"))
        where = ("--listen", at["learner"], "--replay-address", at["replay"], "--run-dir", str(tmp_path / "run"))
        hosts.run("learner", "learner", *RUN, *where)
        for actor in ("one", "two"):
            hosts.run(actor, "actor", "--learner", at["learner"])
        wait(hosts, lambda: env_steps(tmp_path) > 0, "the first steps")

        joined = said(hosts, "joined from")
        hosts.link("one", up=False)
        wait(hosts, lambda: said(hosts, ": lost; its rounds") > 0, "the lost actor to be noticed")
        progress(hosts, tmp_path)  # the other one goes on
        hosts.link("one", up=True)
        wait(hosts, lambda: said(hosts, "joined from") > joined, "the actor to come back")
        progress(hosts, tmp_path)

        for host in ("learner", "replay"):
            hosts.link(host, up=False)
            pause(3.0)
            hosts.link(host, up=True)
            progress(hosts, tmp_path)
        assert all(process.poll() is None for process in hosts.processes.values())
        assert hosts.stop("learner") in (0, 143)


def said(hosts: Hosts, words: str) -> int:
    return hosts.log("learner").read_text().count(words)


def progress(hosts: Hosts, folder: Path) -> None:
    at = env_steps(folder)
    wait(hosts, lambda: env_steps(folder) > at + 500, "progress")


def pause(seconds: float) -> None:
    """How long a cable is out."""
    select.select([], [], [], seconds)


def wait(hosts: Hosts, condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not condition():
        logs = "\n".join(hosts.log(name).read_text()[-2000:] for name in hosts.processes)
        assert time.monotonic() < until_s, f"{what} did not happen within {DEADLINE_S} s\n{logs}"
        for name, process in hosts.processes.items():
            assert process.poll() is None, f"{name} ended before {what}\n{logs}"
        pause(0.05)
