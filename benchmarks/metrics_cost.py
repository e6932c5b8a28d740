"""What metrics cost: `python -m benchmarks.metrics_cost [--write docs/metrics.md]`, about a minute.

Whole runs in processes that meter what they do for metrics, scraped as often as deploy/prometheus does; and scrapes of
a busy learner of 64 actors. The exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import line, machine, write
from benchmarks.running import ROOT

MARKERS = (
    "<!-- metrics cost: begin (written by `python -m benchmarks.metrics_cost --write`) -->",
    "<!-- metrics cost: end -->",
)
MOST_SHARE, MOST_SCRAPE_S = 0.01, 0.05
SCRAPE_EVERY_S, SCRAPES = 5.0, 100
"""As deploy/prometheus does."""
TIMEOUT_S = 120.0
RUNS = {
    "PPO": ("--algorithm", "ppo", "--set"),
    "DQN": ("--algorithm", "dqn", "--policy-lag", "async", "--set", "dqn.updates_per_env_step=0.02"),
}


@dataclass(frozen=True)
class Cost:
    """One figure and its bar."""

    what: str
    value: float
    bar: float
    unit: str
    detail: str

    @property
    def passed(self) -> bool:
        """Below the bar."""
        return self.value < self.bar

    def cells(self) -> list[str]:
        """Of a table."""
        verdict = "pass" if self.passed else "miss"
        return [self.what, f"{self.value:.2f} {self.unit}", self.detail, f"< {self.bar:g} {self.unit}", verdict]


def free_port() -> int:
    """One that nobody has."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def scrape(port: int) -> tuple[float, bytes]:
    """Seconds that an answer takes, and the answer."""
    began_s = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - began_s, body


def start(*arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
    """A metered process."""
    command = [sys.executable, "-m", "benchmarks.metered", *arguments]
    pipe = subprocess.PIPE
    with (log or Path("/dev/null")).open("w") as errors:
        return subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=errors)


def shares(name: str, seconds: float, folder: Path) -> list[Cost]:
    """Of each role of one run, which is ended after so long."""
    (folder / "run").mkdir(parents=True)
    commands, ports = roles(RUNS[name], folder)
    processes = {role: start("shoal", *command, log=folder / f"{role}.log") for role, command in commands.items()}
    try:
        read_all(ports[0], ports[1:], seconds)
        said = {}
        for role in ("learner", "actor", "replay server"):
            if role != "actor":  # the learner tells it that the run is over
                processes[role].send_signal(signal.SIGTERM)
            output = processes[role].communicate(timeout=TIMEOUT_S)[0]
            if processes[role].returncode not in (0, 128 + signal.SIGTERM):
                raise RuntimeError(f"the {role} ended with {processes[role].returncode}: {errors_of(folder, role)}")
            said[role] = json.loads(output.splitlines()[-1])
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    if name == "PPO":
        del said["replay server"]  # it had nothing to do
    return [
        Cost(
            f"{name}, {role}",
            100 * figures["metrics_s"] / figures["process_s"],
            100 * MOST_SHARE,
            "%",
            f"{1000 * figures['metrics_s']:.0f} ms of {figures['process_s']:.1f} s",
        )
        for role, figures in said.items()
    ]


def errors_of(folder: Path, role: str) -> str:
    """The last of what it wrote to its log."""
    return (folder / f"{role}.log").read_text()[-1000:]


def roles(settings: Sequence[str], folder: Path) -> tuple[dict[str, list[str]], list[int]]:
    """The command of each role, and the ports of their metrics."""
    listen, replay, *ports = (free_port() for _ in range(5))
    run = ["--env", "CartPole-v1", "--env-steps", "1000000000", "--actors", "1", "--run-dir", str(folder / "run")]
    at = ["--listen", f"127.0.0.1:{listen}", "--replay-address", f"127.0.0.1:{replay}"]
    files = ["--data-dir", str(folder / "ring")]
    return {
        "learner": ["learner", *run, *at, *settings, f"network.metrics_port={ports[0]}"],
        "replay server": ["replay", "--listen", f"127.0.0.1:{replay}", *files, "--metrics-port", str(ports[1])],
        "actor": ["actor", "--learner", f"127.0.0.1:{listen}", "--metrics-port", str(ports[2])],
    }, ports


def read_all(learner: int, others: Sequence[int], seconds: float) -> None:
    """Read them all now and then, for so long after the learner has begun to learn."""
    end_s = time.monotonic() + TIMEOUT_S
    began = False
    while time.monotonic() < end_s:
        for port in (learner, *others) if began else (learner,):
            try:
                _, body = scrape(port)
            except OSError:
                continue  # it has not begun
            if port == learner and not began and re.search(rb"shoal_updates_total [1-9]", body):
                began, end_s = True, time.monotonic() + seconds
        time.sleep(SCRAPE_EVERY_S if began else 0.2)
    if not began:
        raise RuntimeError(f"nothing was learned within {TIMEOUT_S:g} s")


def scrapes(actors: int = 64) -> Cost:
    """The median of those of a busy learner of so many actors."""
    port = free_port()
    process = start("learner-of", str(actors), str(port))
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                scrape(port)
                break
            except OSError:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    raise
                time.sleep(0.05)
        found = [scrape(port) for _ in range(SCRAPES)]
    finally:
        process.communicate(timeout=TIMEOUT_S)
    took_ms = sorted(1000 * took_s for took_s, _ in found)
    median_ms, p95_ms = statistics.median(took_ms), took_ms[int(0.95 * len(took_ms))]
    detail = f"of {SCRAPES}, p95 {p95_ms:.1f} ms; {len(found[-1][1]) / 1000:.0f} kB"
    return Cost(f"a scrape of a busy learner of {actors} actors, median", median_ms, 1000 * MOST_SCRAPE_S, "ms", detail)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("benchmarks.metrics_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="of each run (default 15)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table between FILE's markers")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="shoal-metrics-") as folder:
        costs = [cost for name in RUNS for cost in shares(name, options.seconds, Path(folder) / name)]
    costs.append(scrapes())
    rows = [["what", "cost", "of", "bar", "verdict"], ["---"] * 5, *(cost.cells() for cost in costs)]
    block = f"{machine()}.\n\n" + "\n".join(line(row) for row in rows)
    print(block)
    if options.write is not None:
        write(options.write, block, MARKERS)
    return 0 if all(cost.passed for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
