"""How cost grows with actors, parameters and replay servers, by simulated actors on one machine; writes docs/scale.md.

    python -m benchmarks.scale --write docs/scale.md     # five minutes
    python -m benchmarks.scale --most 100 --seconds 1    # a look

The learner is this process: its real services and queue, a thread in the trainer's place that takes batches, one that
publishes. Seconds of its processor are what counts: the clients share the cores, so rates are what the machine gave.
What is heavy is imported where it is used: every process of clients imports this module, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import scale_page
from benchmarks.replay.crowd import together
from benchmarks.replay.measures import Figures, cpu_s, resident_mb
from benchmarks.running import ROOT
from benchmarks.scale_actors import Canned, Did, act

if TYPE_CHECKING:
    from benchmarks.scale_host import Host

PROCESSES = 4
ACTORS = (10, 100, 1000)
ENVS = (8, 128)
PARAMS = (10_000, 100_000, 1_700_000)
"""CartPole's network, a wide MLP, the Nature CNN."""
SHARDS = (1, 2, 4)
SHARD_ACTORS, SHARD_SIZE = 64, (64, 8)
MOST_WEIGHTS_PER_S, MOST_WEIGHTS_BYTES_PER_S, MOST_VERSIONS_PER_S = 3000, 300e6, 50
"""What is published at most: the machine's clients must keep up, or versions are skipped."""
MOST_COPIES_BYTES = 1e9
"""gRPC copies a version for each of its readers."""
RESULTS = ROOT / "docs" / "scale.json"


@contextlib.contextmanager
def hosting(actors: int, envs: int = ENVS[0]) -> Iterator[Host]:
    """A learner for one measurement."""
    from benchmarks.scale_host import Host

    host = Host(actors, envs)
    try:
        yield host
    finally:
        host.close()


class Sampler:
    """Seconds of processor over time, from now until `share`: clients begin and end a little apart."""

    EVERY_S = 0.05

    def __init__(self, used_s: Callable[[], float]) -> None:
        self._used_s, self._over = used_s, threading.Event()
        self._samples = [(time.perf_counter(), used_s())]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self.EVERY_S):
            self._samples.append((time.perf_counter(), self._used_s()))

    def share(self, results: Sequence[Did]) -> float:
        """Of a core, while all clients were at work."""
        self._over.set()
        self._thread.join()
        times_s, used_s = zip(*self._samples, strict=True)
        start_s, end_s = max(did.start_s for did in results), min(did.end_s for did in results)
        first, last = np.interp([start_s, end_s], times_s, used_s)
        return float((last - first) / (end_s - start_s))


def crowd(host: Host, actors: int, seconds: float, inserts: bool) -> Figures:
    """What so many actors did, and what the learner's process used for it."""
    shares = [len(range(first, actors, PROCESSES)) for first in range(min(PROCESSES, actors))]
    canned = host.canned if inserts else None
    jobs = [(act, ([host.address], host.table, [None] * share, canned, seconds)) for share in shares]
    before, sampler = resident_mb(os.getpid()), Sampler(time.process_time)
    results, used = together(jobs, os.getpid())
    figures = summed(results) | {"actors": actors, "cpu_share": sampler.share(results)}
    if before is not None:
        figures["own_mb"] = used["server_own_mb"] - before[1]
    return figures


def summed(results: Sequence[Did]) -> Figures:
    """Rates of all processes together, each over its own time."""
    return {
        "connect_s": max(did.connect_s for did in results),
        "unrolls_per_s": sum(did.unrolls / (did.end_s - did.start_s) for did in results),
        "weights_per_s": sum(did.weights / (did.end_s - did.start_s) for did in results),
        "weights_bytes_per_s": sum(did.weights_bytes / (did.end_s - did.start_s) for did in results),
    }


def idle(actors: int, seconds: float) -> Figures:
    """Actors that are there and do nothing."""
    with hosting(actors) as host:
        return crowd(host, actors, seconds, inserts=False)


def inserting(actors: int, envs: int, seconds: float) -> Figures:
    """Actors that send as fast as they are acknowledged."""
    with hosting(actors, envs) as host:
        host.publish(PARAMS[0])  # batches are taken from the first version on
        return crowd(host, actors, seconds, inserts=True) | {"unroll_bytes": len(host.canned.payload)}


def fan_out(actors: int, params: int, seconds: float) -> Figures:
    """Actors that are sent version after version."""
    size = 4 * params
    per_s = min(MOST_VERSIONS_PER_S, MOST_WEIGHTS_PER_S / actors, MOST_WEIGHTS_BYTES_PER_S / (actors * size))
    seconds = max(seconds, 3 / per_s)
    with hosting(actors) as host:
        host.publish_often(params, per_s)
        return crowd(host, actors, seconds, inserts=False) | {"params": params, "published_per_s": per_s}


def sharded(shards: int, seconds: float) -> Figures:
    """Actors that insert into several replay servers, each into one."""
    from benchmarks.replay.server import TABLE, make_table, running, unroll
    from benchmarks.replay.shapes import KINDS
    from core import wire

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running()) for _ in range(shards)]
        for server in servers:
            with server.channel() as channel:
                make_table(channel, KINDS["cartpole"], size=SHARD_SIZE, writers=SHARD_ACTORS)
        columns, addresses = unroll(KINDS["cartpole"], *SHARD_SIZE), [s.address for s in servers]
        canned = Canned(wire.encode(columns), columns["valid"].size)
        slots = [list(range(first, SHARD_ACTORS, PROCESSES)) for first in range(PROCESSES)]
        sampler = Sampler(lambda: sum(cpu_s(server.pid) or 0.0 for server in servers))
        jobs = [(act, (addresses, TABLE, mine, canned, seconds)) for mine in slots]
        results, _ = together(jobs, servers[0].pid)
        figures = summed(results) | {"cpu_share": sampler.share(results)}
    return figures | {"shards": shards, "actors": SHARD_ACTORS, "unroll_bytes": len(canned.payload)}


def measure(most: int, seconds: float) -> dict[str, list[Figures]]:
    """Everything, up to `most` actors."""
    counts = [n for n in ACTORS if n <= most]

    def told(figures: Figures) -> Figures:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}), file=sys.stderr, flush=True)
        return figures

    return {
        "idle": [told(idle(n, seconds)) for n in counts],
        "inserts": [told(inserting(n, envs, seconds)) for envs in ENVS for n in counts],
        "weights": [told(fan_out(n, p, seconds)) for p in PARAMS for n in counts if n * 4 * p <= MOST_COPIES_BYTES],
        "shards": [told(sharded(k, seconds)) for k in SHARDS],
    }


def load(file: Path) -> dict[str, list[Figures]]:
    """The figures of an earlier call."""
    kept: dict[str, list[Figures]] = json.loads(file.read_text(encoding="utf-8"))
    return kept


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=ACTORS[-1], metavar="N", help="actors at once")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of each measurement")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--again", action="store_true", help=f"write it from {RESULTS.name}, measure nothing")
    options = parser.parse_args(argv)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    results = load(RESULTS) if options.again else measure(options.most, options.seconds)
    if options.write is None:
        print(scale_page.page(results))
        return
    if not options.again:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    options.write.write_text(scale_page.page(results), encoding="utf-8")


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # a thousand actors that hang up; of this process alone
    main()
