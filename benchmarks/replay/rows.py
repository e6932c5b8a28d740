"""From what was measured to the rows of the table, each with its bar. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Value, count, median, pair_ratio, seconds
from benchmarks.installer import HOW
from benchmarks.running import Results

OURS, LIMIT, REVERB = "shoal", "limit", "reverb"
LEAST_INSERTED, LEAST_SAMPLED = 60_000, 480_000
RESTART_S, RESTART_STEPS = 2.0, 1_000_000
SMALL_SHARE = 0.5
ACK_P99_MS, SLOWEST_SHARE = 150.0, 0.5
DISK_SHARE = 0.6


@dataclass(frozen=True)
class Row:
    """A line of the table. `passed` is None where nothing could be decided."""

    what: str
    ours: str
    bar: str
    passed: bool | None
    limit: str = "-"
    share: str = "-"
    reverb: str = "-"
    times: str = "-"
    speed: str = "-"
    latency: str = "-"
    server: str = "-"


@dataclass(frozen=True)
class Topic:
    """A row by its name, and the contestants that it needs."""

    name: str
    needs: Sequence[str]
    row: Callable[[Results], Row]


def of(who: str, what: str) -> str:
    """A contestant's name."""
    return f"{who} {what}"


def column(results: Results, name: str, field: str) -> list[Value]:
    """A figure of every run of a contestant; None where the run failed."""
    return [run.get(field) for run in results.get(name, ())]


def failure(results: Results, name: str) -> str | None:
    """Why a contestant has no median: the first reason that it gave."""
    runs = results.get(name, ())
    reasons = [str(run["error"]) for run in runs if "error" in run]
    return f"failed: {reasons[0]}" if len(reasons) > len(runs) // 2 else None if runs else "not measured"


def server_of(results: Results, name: str) -> dict[str, str]:
    """The cells that every row has: GB/s, latencies, and what the server took."""

    def middle(field: str) -> Value:
        values = [value for value in column(results, name, field) if value is not None]
        return median(values)

    speed, p50, p99 = middle("gb_per_s"), middle("p50_ms"), middle("p99_ms")
    percent, resident, own = middle("server_cpu_percent"), middle("server_rss_mb"), middle("server_own_mb")
    taken = [] if percent is None else [f"{percent:.0f} %"]
    if resident is not None and own is not None:
        taken.append(f"{resident:,.0f} MB ({own:,.0f} own)")
    return {
        "speed": "-" if speed is None else f"{speed:.3f}",
        "latency": "-" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f} ms",
        "server": ", ".join(taken) or "-",
    }


def compared(
    what: str,
    ours: str,
    *,
    limit: str,
    share: float,
    peers: Sequence[str] = (),
    times: float | None = None,
    unit: str = "",
) -> Callable[[Results], Row]:
    """Items/s as a share of the limit's and in times of the peer's, the better of those named `peers`."""

    def row(results: Results) -> Row:
        name = of(OURS, ours)
        mine = [value or 0.0 for value in column(results, name, "per_s")]  # a run that failed reached nothing
        bare = column(results, of(LIMIT, limit), "per_s")
        part = pair_ratio(mine, bare)
        best, cell = _best_peer(results, peers)
        ratio = pair_ratio(mine, best)
        bars = [] if times is None else [f"≥ {times:g} x Reverb"]
        verdicts = [part is not None and part >= share] if bare else []
        if times is not None and ratio is not None:
            verdicts.append(ratio >= times)
        failed = failure(results, name)
        return Row(
            what,
            failed or f"{count(median(mine))}{unit}",
            ", ".join([*bars, f"≥ {share:g} of limit"]),
            False if failed else all(verdicts) if verdicts else None,
            failure(results, of(LIMIT, limit)) or f"{count(median(bare))}{unit}",
            "-" if part is None else f"{part:.2f}",
            cell,
            "-" if ratio is None else f"{ratio:.1f} x",
            **server_of(results, name),
        )

    return row


def _best_peer(results: Results, peers: Sequence[str]) -> tuple[list[Value], str]:
    """The runs of the better one, and what all reached; none where the peer was not measured."""
    names = [of(REVERB, peer) for peer in peers]
    measured = [name for name in names if results.get(name)]
    if not peers or not measured:
        return [], "-" if not peers else f"not measured: --vs reverb ({HOW})"
    middles = {name: median([v for v in column(results, name, "per_s") if v is not None]) for name in measured}
    cells = []
    for name in measured:
        what = "" if len(names) == 1 else "single frames " if name.endswith("frames") else "stacks "
        cells.append(f"{what}{'failed' if middles[name] is None else count(middles[name])}")
    best = max(measured, key=lambda name: middles[name] or 0.0)
    return column(results, best, "per_s"), ", ".join(cells)


def both(results: Results) -> Row:
    """Two rates at once."""
    name = of(OURS, "both")
    inserted, sampled = (median(column(results, name, field)) for field in ("inserted_per_s", "per_s"))
    failed = failure(results, name)
    passed = inserted is not None and sampled is not None
    return Row(
        "insert and sample at once, samples_per_insert 8, CartPole",
        failed or f"{count(inserted)} inserted, {count(sampled)} sampled",
        f"≥ {LEAST_INSERTED:,} and {LEAST_SAMPLED:,}",
        passed and (inserted or 0) >= LEAST_INSERTED and (sampled or 0) >= LEAST_SAMPLED,
        **server_of(results, name),
    )


def restart(results: Results) -> Row:
    """Seconds to serving. A table that was made smaller than the bar's decides nothing."""
    name = of(OURS, "restart")
    took_s, steps = median(column(results, name, "restart_s")), median(column(results, name, "steps"))
    stopped_s, killed_s = (median(column(results, name, field)) for field in ("after_stop_s", "after_kill_s"))
    shown = f"{seconds(took_s)} (stopped: {seconds(stopped_s)}, killed: {seconds(killed_s)})"
    failed = failure(results, name)
    whole = steps is not None and steps >= RESTART_STEPS
    return Row(
        f"restart of an Atari table on disk, {count(steps) if steps else 'some'} steps, page cache warm",
        failed or shown,
        f"≤ {RESTART_S:g} s with {RESTART_STEPS:,} steps",
        False if failed else (took_s is not None and took_s <= RESTART_S) if whole else None,
        **server_of(results, name),
    )


def fleet(results: Results) -> Row:
    """The latency of acks, and the slowest actor."""
    name = of(OURS, "fleet")
    p99, slowest = median(column(results, name, "p99_ms")), median(column(results, name, "slowest_share"))
    full, full_slowest = (median(column(results, name, f"saturation_{f}")) for f in ("per_s", "slowest_share"))
    failed, shown = failure(results, name), "-"
    if p99 is not None and slowest is not None and full_slowest is not None:
        shown = f"p99 {p99:.0f} ms, slowest {slowest:.2f} ({full_slowest:.2f} at saturation, {count(full)} messages/s)"
    return Row(
        "256 actors at half of saturation: p99 ack; slowest actor in medians",
        failed or shown,
        f"< {ACK_P99_MS:g} ms, ≥ {SLOWEST_SHARE:g}",
        p99 is not None and slowest is not None and p99 < ACK_P99_MS and slowest >= SLOWEST_SHARE,
        **server_of(results, name),
    )


def disk(results: Results) -> Row:
    """Against memory, or against what the disk takes of a bare loop."""
    name, memory, bare = of(OURS, "insert-disk"), of(OURS, "insert-tmpfs"), of(OURS, "disk")
    mine = [value or 0.0 for value in column(results, name, "per_s")]
    in_memory, raw = column(results, memory, "per_s"), column(results, bare, "per_s")
    share, of_raw = pair_ratio(mine, in_memory), pair_ratio(mine, raw)
    failed = failure(results, name) or failure(results, memory)
    shown = f"{count(median(mine))} of {count(median(in_memory))} in memory"
    known = [value for value in (share is not None and share >= DISK_SHARE, of_raw is not None and of_raw >= 1.0)]
    return Row(
        "insert Atari steps on disk, wrapped once, manifests every 10 s",
        failed or shown,
        f"≥ {DISK_SHARE:g} of memory, or all that the disk takes",
        False if failed else any(known),
        failure(results, bare) or f"disk: {count(median(raw))}",
        " / ".join("-" if value is None else f"{value:.2f}" for value in (share, of_raw)),
        **server_of(results, name),
    )


def compared_topic(
    name: str, what: str, times: float, share: float, limit: str = "", peers: Sequence[str] = ()
) -> Topic:
    """A row against both."""
    limit, peers = limit or name, peers or (name,)
    needs = [of(OURS, name), of(LIMIT, limit), *(of(REVERB, peer) for peer in peers)]
    return Topic(name, needs, compared(what, name, limit=limit, share=share, peers=peers, times=times))


def small_topic(name: str, what: str) -> Topic:
    """Messages/s."""
    row = compared(what, name, limit=name, share=SMALL_SHARE)
    return Topic(name, [of(OURS, name), of(LIMIT, name)], row)


SAMPLED_ATARI = ("sample-atari", "sample-atari-frames")
TOPICS = {
    topic.name: topic
    for topic in (
        compared_topic("insert-cartpole", "insert CartPole steps, one writer, per s", 300, 0.3),
        compared_topic("sample-uniform", "sample, batch 256, uniform, per s", 12, 0.6),
        compared_topic(
            "sample-prioritised", "sample, batch 256, prioritised, updates for every batch (Reverb: none)", 8, 0.7
        ),
        compared_topic("insert-atari", "insert Atari steps", 9, 0.55, peers=("insert-atari", "insert-atari-frames")),
        compared_topic(
            "sample-atari", "sample Atari, 4-frame stacks, batch 256, through gRPC", 1.5, 0.75, peers=SAMPLED_ATARI
        ),
        compared_topic(
            "sample-atari-reference", "the same by reference", 5, 3, limit="sample-atari", peers=SAMPLED_ATARI
        ),
        Topic("both", [of(OURS, "both")], both),
        Topic("restart", [of(OURS, "restart")], restart),
        small_topic("small-1x1", "unrolls of T = 1, B = 1 from 8 actors, unrolls/s (limit: messages/s)"),
        small_topic("small-16x8", "unrolls of 16 x 8 from 8 actors, unrolls/s (limit: messages/s)"),
        Topic("fleet", [of(OURS, "fleet")], fleet),
        Topic("disk", [of(OURS, name) for name in ("insert-disk", "insert-tmpfs", "disk")], disk),
    )
}


def rows_of(results: Results, topics: Sequence[str]) -> list[Row]:
    """The rows of those topics in the table's order."""
    return [topic.row(results) for name, topic in TOPICS.items() if name in topics]
