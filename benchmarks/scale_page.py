"""docs/scale.md from the figures of scale.py: tables, two fitted costs, and the arithmetic of what comes next. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import report

Figures = Mapping[str, float]
FULL = 0.7
"""Share of a core beyond which the services' thread counts as full: queues grow long before it is at 1."""
FAN = 32
"""Actors of one relay: a host's."""
LINK_BYTES_PER_S = 1.25e9
"""10 Gbit/s."""


class Cost(NamedTuple):
    """Seconds of a processor for one message: `each_s` + `byte_s` x its bytes."""

    each_s: float
    byte_s: float

    def of(self, size_bytes: float) -> float:
        """Of a message of that size."""
        return self.each_s + self.byte_s * size_bytes


def fitted(sizes_bytes: Sequence[float], costs_s: Sequence[float]) -> Cost:
    """The line through the points whose relative errors are the least squares; never below zero."""
    sizes, costs = np.asarray(sizes_bytes, float), np.asarray(costs_s, float)
    columns = np.stack([np.ones_like(sizes), sizes], 1) / costs[:, None]
    each_s, byte_s = np.linalg.lstsq(columns, np.ones(len(costs)), rcond=None)[0]
    if each_s < 0:
        return Cost(0.0, float(np.mean(costs / sizes)))
    return Cost(float(each_s), float(byte_s)) if byte_s >= 0 else Cost(float(costs.mean()), 0.0)


class Load(NamedTuple):
    """What each actor does: receives versions, sends unrolls."""

    name: str
    params: int
    versions_per_s: float
    unrolls_per_s: float
    unroll_bytes: int


LOADS = (
    Load("CartPole, MLP", 10_000, 2.0, 2.0, 19_200),
    Load("MuJoCo, wide MLP", 100_000, 1.0, 1.0, 200_000),
    Load("Atari, Nature CNN", 1_700_000, 1.0, 1.0, 1_000_000),
    Load("a network of 20 M", 20_000_000, 0.2, 0.5, 1_000_000),
)


def limits(load: Load, weights: Cost, unrolls: Cost, full: float = FULL) -> tuple[int, int]:
    """Actors until the services' thread is full, and until the weights fill the learner's link."""
    size = 4 * load.params
    busy = load.versions_per_s * weights.of(size) + load.unrolls_per_s * unrolls.of(load.unroll_bytes)
    return int(full / busy), int(LINK_BYTES_PER_S / (size * load.versions_per_s))


def page(results: Mapping[str, Sequence[Figures]]) -> str:
    """The whole document."""
    weights = fitted([4 * f["params"] for f in results["weights"]], [_each_s(f, "weights") for f in results["weights"]])
    unrolls = fitted(
        [f["unroll_bytes"] for f in results["inserts"]], [_each_s(f, "unrolls") for f in results["inserts"]]
    )
    return TEXT.format(
        most=int(max(f["actors"] for f in results["idle"])),
        machine=report.machine(),
        idle=_table(IDLE, [_idle(f) for f in results["idle"]]),
        inserts=_table(INSERTS, [_inserts(f) for f in results["inserts"]]),
        weights=_table(WEIGHTS, [_weights(f) for f in results["weights"]]),
        shards=_table(SHARDS, [_shards(f) for f in results["shards"]]),
        limits=_table(LIMITS, [_limits(load, weights, unrolls) for load in LOADS]),
        kb=_kb(results["idle"][-1]),
        a=1e6 * weights.each_s,
        b=1e9 * weights.byte_s,
        d=1e6 * unrolls.each_s,
        e=1e9 * unrolls.byte_s,
        full=FULL,
        fan=FAN,
        ms=1e3 * 2 * 4 * 1_700_000 / LINK_BYTES_PER_S,
        replay=FULL / _each_s(results["shards"][0], "unrolls"),
    )


def _each_s(figures: Figures, what: str) -> float:
    return figures["cpu_share"] / figures[f"{what}_per_s"]


def _mb(figures: Figures) -> str:
    """Nothing where memory of an earlier measurement was given back meanwhile."""
    return f"{figures['own_mb']:,.0f}" if figures.get("own_mb", -1.0) >= 0 else "-"


def _kb(figures: Figures) -> float:
    return 1e3 * figures.get("own_mb", math.nan) / figures["actors"]


IDLE = ("actors", "all there after, s", "learner's memory an actor, kB", "share of a core, idle")
INSERTS = (
    "actors",
    "unroll, kB",
    "unrolls/s",
    "MB/s",
    "learner, share of a core",
    "µs an unroll",
    "learner's memory, MB",
)
WEIGHTS = (
    "actors",
    "params",
    "versions/s",
    "messages/s",
    "MB/s",
    "learner, share of a core",
    "µs a message",
    "learner's memory, MB",
    "delivered",
)
SHARDS = ("replay servers", "unrolls/s", "MB/s", "cores of all servers", "µs an unroll")
LIMITS = (
    "run",
    "versions/s",
    "weights, MB",
    "unrolls/s of an actor",
    "actors until a core is full",
    "until 10 Gbit/s is",
    f"core, with a relay for {FAN}",
    "10 Gbit/s, the same",
)


def _idle(f: Figures) -> list[str]:
    return [f"{f['actors']:,.0f}", f"{f['connect_s']:.1f}", f"{_kb(f):.0f}", f"{f['cpu_share']:.3f}"]


def _inserts(f: Figures) -> list[str]:
    size = f["unroll_bytes"]
    rates = [f"{f['unrolls_per_s']:,.0f}", f"{f['unrolls_per_s'] * size / 1e6:,.0f}"]
    return [
        *(f"{f['actors']:,.0f}", f"{size / 1e3:,.0f}", *rates),
        *(f"{f['cpu_share']:.2f}", f"{1e6 * _each_s(f, 'unrolls'):,.0f}", _mb(f)),
    ]


def _weights(f: Figures) -> list[str]:
    delivered = f["weights_per_s"] / (f["actors"] * f["published_per_s"])
    return [
        *(f"{f['actors']:,.0f}", f"{f['params']:,.0f}", f"{f['published_per_s']:.3g}"),
        *(f"{f['weights_per_s']:,.0f}", f"{f['weights_bytes_per_s'] / 1e6:,.0f}", f"{f['cpu_share']:.2f}"),
        *(f"{1e6 * _each_s(f, 'weights'):,.0f}", _mb(f), f"{100 * min(1.0, delivered):.0f} %"),
    ]


def _shards(f: Figures) -> list[str]:
    return [
        *(f"{f['shards']:.0f}", f"{f['unrolls_per_s']:,.0f}", f"{f['unrolls_per_s'] * f['unroll_bytes'] / 1e6:,.0f}"),
        *(f"{f['cpu_share']:.2f}", f"{1e6 * _each_s(f, 'unrolls'):,.0f}"),
    ]


def _limits(load: Load, weights: Cost, unrolls: Cost) -> list[str]:
    core, link = limits(load, weights, unrolls)
    core_relayed, link_relayed = limits(load._replace(versions_per_s=load.versions_per_s / FAN), weights, unrolls)
    return [
        *(load.name, f"{load.versions_per_s:g}", f"{4 * load.params / 1e6:.3g}"),
        *(f"{load.unrolls_per_s:g} of {load.unroll_bytes / 1e3:,.0f} kB", f"{core:,}", f"{link:,}"),
        *(f"{core_relayed:,}", f"{link_relayed:,}"),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(report.line(cells) for cells in (head, ["---"] * len(head), *rows))


TEXT = """# How cost grows

<!-- Written by `python -m benchmarks.scale --write docs/scale.md`. Do not edit. -->

What a learner pays for its actors, measured with up to {most:,} simulated ones: real connections over TCP on
loopback, real joins, weight streams and inserts, no environments. On {machine}, shared with other jobs and with the
simulated actors themselves: messages a second are what was left for them, so compare the columns that do not depend
on it, processor time a message and memory an actor. `docs/scale.json` has every figure.

## Being there

{idle}

An actor that waits costs memory, {kb:.0f} kB, and hardly any processor time: three threads serve all of them.

## Sending unrolls

Every actor sends CartPole unrolls (64 rows of 8 and of 128 environments) as fast as they are acknowledged, two under
way.

{inserts}

The window is the whole back-pressure: with more actors than the learner can take, each waits longer. What grows with
them is memory: up to two unrolls of each are on their way, and the queue has room for two of each. The cost of an
unroll, each a batch of its own, is {d:.0f} µs and {e:.2f} µs a kB.

## Receiving weights

{weights}

A version is encoded once and written to every connection: {a:.0f} µs a message and {b:.2f} µs a kB, both in
proportion to the actors. gRPC copies it for each reader, so memory on the way out is up to actors x bytes; 1,000
readers of the CNN are left out for that. Below 100 % delivered, an actor that was busy was sent the newest version
instead of each. "-": memory of a measurement before was given back meanwhile.

## Several replay servers

64 actors insert unrolls of 64 rows of 8 CartPole environments, each into one of the servers.

{shards}

The cost of an unroll does not depend on how many servers there are, since they share nothing: k servers on k cores
take k times as much. This machine has too few cores to show it in unrolls a second.

## Past one machine: what pays when

The services' event loop is one thread of the learner. With N actors that receive v versions of S bytes and send u
unrolls of U bytes a second it uses

    N (v ({a:.0f} µs + {b:.2f} ns S) + u ({d:.0f} µs + {e:.2f} ns U))    of a core, and    N v S    bytes/s of its link.

The table solves for N, a core counted as full at {full:g}. The fitted costs contain what a busy machine adds, for
better or worse: compare ratios, and measure on your own.

{limits}

None of the following is built; each has a figure above that says when it is worth building.

**Fewer versions** cost nothing: an actor that acts for a second has no use for ten versions. Where v is the learner's
updates a second, an interval between publications is the first thing to turn; it adds to staleness.

**Weight relays.** A process that subscribes once and answers `Weights` for F actors, passing bytes on unparsed. The
learner then sends N / F messages a version and each relay F, so v becomes v / F above; inserts stay. It pays where
N v S fills the link, or where v ({a:.0f} µs + {b:.2f} ns S) is most of what an actor costs the core: compare the
table's columns. One relay on each host of {fan} actors also keeps all but one copy of each version off the network. It
adds S / link to the age of weights. Two levels of F serve F x F actors. Leases would be the relays'.

**Replay shards.** One server takes about {replay:,.0f} of the unrolls above a second at {full:g} of a core, less what
sampling uses. Actors would be given one of k servers at their join, the learner draws B / k items from each. It pays
when inserts and samples fill one core, or the table one host's memory. Uniform sampling stays exact while the shards
hold equally many items; with priorities each shard's sum must be known to draw in proportion. Exactly once, rollback
and recovery are a shard's own.

**Several learners.** k copies of the network, each with a k-th of the batch, that average gradients: with a ring each
sends and receives 2 S (k - 1) / k bytes an update. An update that takes t alone takes t / k + 2 S (k - 1) / (k link),
so it pays where

    t > 2 S / link

whatever k is: {ms:.0f} ms for the Nature CNN over 10 Gbit/s. Below that a larger GPU helps and a second one does not.
A learner that waits for data (`learner_wait_share`) has no use for another: actors are missing then, and
`docs/kubernetes.md` scales them by that."""
