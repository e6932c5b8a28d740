"""The real replay server, `shoal replay`, with real clients. One figure a call; prints one line of JSON.

python -m benchmarks.replay.ours insert-cartpole --seconds 3
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.replay import disk, fleet
from benchmarks.replay.crowd import together
from benchmarks.replay.drive import INSERT_WINDOW, Inserts, Samples
from benchmarks.replay.measures import Figures, Usage
from benchmarks.replay.server import BATCH, make_table, running, sampler, unroll, writer
from benchmarks.replay.shapes import KINDS, SIZES, Kind
from core import rpc
from core.errors import ReplayError, ShoalError

SAMPLES_PER_INSERT = 8.0


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    seconds: float
    steps: int
    disk: Path


def measure_insert(kind: Kind, seconds: float) -> Figures:
    """Steps/s of one writer into a table that is full."""
    with running() as server, server.channel() as channel:
        make_table(channel, kind)
        stream = writer(channel, window=INSERT_WINDOW)
        inserts = Inserts(stream, unroll(kind, kind.rows, kind.envs), INSERT_WINDOW)
        inserts.fill(kind.capacity)
        usage = Usage(server.pid)
        took_s = inserts.run(seconds)
        figures = inserts.figures(took_s) | usage.figures()
        stream.close()
        return figures


def measure_sample(kind: Kind, seconds: float, *, prioritised: bool = False, by_reference: bool = False) -> Figures:
    """Items/s of one learner from a full table. Raises ReplayError where the server gives no reference."""
    with running() as server, server.channel() as channel:
        make_table(channel, kind, sampler="prioritised" if prioritised else "uniform")
        _fill(channel, kind)
        stream = sampler(channel, by_reference=by_reference)
        samples = Samples(stream, BATCH, prioritised)
        samples.start()
        if by_reference and not stream.by_reference:
            raise ReplayError("the server did not let its client read the table's files")
        usage = Usage(server.pid)
        figures = samples.run(seconds) | usage.figures()
        samples.check(kind.before + 2)
        stream.close()
        return figures


def _fill(channel: rpc.Channel, kind: Kind) -> None:
    stream = writer(channel, window=INSERT_WINDOW)
    Inserts(stream, unroll(kind, kind.rows, kind.envs), INSERT_WINDOW).fill(kind.capacity)
    stream.close()


def measure_both(seconds: float) -> Figures:
    """A writer and a learner at once, held together by the rate limiter."""
    kind = KINDS["cartpole"]
    with running() as server:
        with server.channel() as channel:
            make_table(channel, kind, samples_per_insert=SAMPLES_PER_INSERT)
        jobs = [(_write_on, (server.address, seconds)), (_sample_on, (server.address, seconds))]
        (_, figures), usage = together(jobs, server.pid)
        merged: Figures = figures | usage
        return merged


def _write_on(ready: Callable[[], None], address: str, seconds: float) -> int:
    """Inserts until the learner has gone, and the rate limiter with it."""
    kind = KINDS["cartpole"]
    with rpc.open_channel(address) as channel:
        stream = writer(channel, window=INSERT_WINDOW)
        inserts = Inserts(stream, unroll(kind, kind.rows, kind.envs), INSERT_WINDOW)
        ready()
        inserts.until(seconds + 1.0)
        stream.cancel()
    return inserts.sent


def _sample_on(ready: Callable[[], None], address: str, seconds: float) -> Figures:
    with rpc.open_channel(address) as channel:
        stream = sampler(channel)
        samples = Samples(stream, BATCH)
        ready()
        samples.start()
        figures = samples.run(seconds)
        stream.close()
    return figures


FIGURES: dict[str, Callable[[Options], Figures]] = {
    "insert-cartpole": lambda o: measure_insert(KINDS["cartpole"], o.seconds),
    "sample-uniform": lambda o: measure_sample(KINDS["cartpole"], o.seconds),
    "sample-prioritised": lambda o: measure_sample(KINDS["cartpole"], o.seconds, prioritised=True),
    "insert-atari": lambda o: measure_insert(KINDS["atari"], o.seconds),
    "sample-atari": lambda o: measure_sample(KINDS["atari"], o.seconds),
    "sample-atari-reference": lambda o: measure_sample(KINDS["atari"], o.seconds, by_reference=True),
    "both": lambda o: measure_both(o.seconds),
    "small-1x1": lambda o: fleet.measure_small(SIZES["small-1x1"], o.seconds),
    "small-16x8": lambda o: fleet.measure_small(SIZES["small-16x8"], o.seconds),
    "fleet": lambda o: fleet.measure_fleet(o.seconds),
    "insert-disk": lambda o: disk.measure_insert(o.disk, o.seconds),
    "insert-tmpfs": lambda o: disk.measure_insert(None, o.seconds),
    "disk": lambda o: disk.measure_disk(o.disk, o.seconds),
    "restart": lambda o: disk.measure_restart(o.disk, o.steps),
}


def main() -> int:
    """One figure. What Shoal refuses is said in place of it."""
    parser = argparse.ArgumentParser("benchmarks.replay.ours", description=__doc__)
    parser.add_argument("what", choices=FIGURES)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the table that is restarted")
    parser.add_argument("--disk", type=Path, default=Path(), metavar="DIR", help="a folder on a disk")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that folders are removed and servers end
    try:
        figures: object = FIGURES[options.what](Options(options.seconds, options.steps, options.disk.resolve()))
    except (ShoalError, RuntimeError, OSError) as error:
        figures = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
