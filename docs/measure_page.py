"""What those who look at a run's page cost its learner: `python -m docs.measure_page`, for docs/page.md.

First the processor time of serving, in a process that does nothing else: it does not depend on what else the machine
does. Then whole runs, in turns: nobody looks, and 20 tabs and a scraper do, each once a second.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from multiprocessing.synchronize import Event
from pathlib import Path

from core.config import Config
from core.http import MetricsServer
from core.metrics import Metrics
from learner.page import Page, serve
from learner.status import Seated, Status

TABS = 20
SERVE_S = 20.0
RUNS = 5
FIGURES = 20
RUN = ("--algorithm", "ppo", "--env", "CartPole-v1", "--env-steps", "100000", "--quiet", "--set")


def look(urls: list[str], over: Event) -> None:
    """Ask each address once a second, spread over the second, until it is over."""

    def ask(url: str, wait_s: float) -> None:
        over.wait(wait_s)
        while not over.wait(1.0):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # the run may be over
                answer.read()

    threads = [threading.Thread(target=ask, args=(url, i / len(urls))) for i, url in enumerate(urls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lookers(page: str, metrics: str) -> tuple[multiprocessing.Process, Event]:
    """20 tabs and a scraper, in a process of their own."""
    over = multiprocessing.Event()
    process = multiprocessing.Process(target=look, args=([f"{page}live.json"] * TABS + [f"{metrics}metrics"], over))
    process.start()
    return process, over


def serving() -> float:
    """Share of a core that the lookers take of who serves them, while a line of progress comes every second."""
    page, metrics = Page(Config(), Path("runs/x")), Metrics()
    figures = {f"figure_{i}": 1.0 / (i + 3) for i in range(FIGURES)}
    for i in range(1000):
        page.record({"kind": "progress", "env_steps": 100 * i, **figures})
        metrics.set("algorithm", 1.0, name=f"figure_{i % FIGURES}")
    server, scraped = serve(page, "127.0.0.1:0"), MetricsServer(metrics, 0)
    process, over = lookers(server.url, scraped.url)
    began_s, spent_s = time.monotonic(), time.process_time()
    for i in range(round(SERVE_S)):
        page.status(Status(seated=tuple(Seated(slot, "host", 1, "acting") for slot in range(16))))
        page.record({"kind": "progress", "env_steps": 100_000 + 100 * i, **figures})
        time.sleep(1.0)
    share = (time.process_time() - spent_s) / (time.monotonic() - began_s)
    print(f"one answer has {len(page.live()):,} bytes")
    over.set()
    process.join()
    server.close()
    scraped.close()
    return share


def speed(folder: Path, *, watched: bool) -> float:
    """Env steps per second of one run."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = () if watched else ("network.page=null",)
    command = [sys.executable, "-m", "shoal", "train", *RUN, f"network.metrics_port={port}", *page]
    command += ["--run-dir", str(folder)]
    with subprocess.Popen(command) as run:
        looking = None
        log = folder / "logs" / "learner.log"
        while watched and looking is None and run.poll() is None:
            time.sleep(0.05)
            found = re.search(r"^page at (\S+)$", log.read_text(), re.M) if log.exists() else None
            looking = lookers(found[1], f"http://127.0.0.1:{port}/") if found else None
        run.wait()
        if looking is not None:
            looking[1].set()
            looking[0].join()
    return float(json.loads((folder / "summary.json").read_text())["env_steps_per_s"])


def main() -> None:
    """Print both."""
    print(f"{TABS} tabs and a scraper take {100 * serving():.1f} % of one core of who serves them")
    with tempfile.TemporaryDirectory() as folder:
        found: dict[bool, list[float]] = {False: [], True: []}
        for i in range(RUNS):
            for watched in found:
                found[watched].append(speed(Path(folder) / f"{i}-{watched}", watched=watched))
    for watched, speeds in found.items():
        name = f"{TABS} tabs and a scraper" if watched else "no page"
        each = " ".join(f"{s:,.0f}" for s in speeds)
        print(f"{name}: median {statistics.median(speeds):,.0f} env steps/s ({each})")


if __name__ == "__main__":
    main()
