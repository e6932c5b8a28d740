"""benchmarks/replay/: percentiles, and rows with their bars. Nothing is measured here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.installer import PINS
from benchmarks.replay.command import contestants
from benchmarks.replay.fleet import slowest_share
from benchmarks.replay.limit import decode, encode
from benchmarks.replay.measures import latencies, percentile, rates
from benchmarks.replay.ours import FIGURES
from benchmarks.replay.rows import LIMIT, OURS, REVERB, TOPICS, Row, of, rows_of
from benchmarks.replay.shapes import KINDS
from benchmarks.replay.tables import HEADINGS, MARKERS, markdown
from benchmarks.replay.trees import draw, new_tree, update
from benchmarks.report import between_markers


@pytest.mark.parametrize(
    ("values", "percent", "want"),
    [([5.0], 99, 5.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0), (list(range(1, 101)), 99, 99), (list(range(1, 201)), 99, 198)],
)
def test_percentile_is_a_value_that_was_measured(values: list[float], percent: float, want: float) -> None:
    assert percentile(values, percent) == want


def test_nothing_measured_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)
    assert latencies([]) == {}
    assert rates(10, 4_000_000_000, 2.0) == {"per_s": 5.0, "gb_per_s": 2.0}


def row(name: str, results: dict[str, list[dict[str, Any]]]) -> Row:
    (found,) = rows_of(results, [name])
    return found


def speeds(*values: float | None) -> list[dict[str, Any]]:
    return [{"error": "no server"} if value is None else {"per_s": value} for value in values]


@pytest.mark.parametrize(
    ("ours", "limit", "reverb", "passed"),
    [
        (60.0, 100.0, 5.0, True),
        (59.0, 100.0, 1.0, False),  # below the share
        (60.0, 100.0, 5.1, False),  # below the times
        (60.0, 100.0, None, True),  # the peer was not measured
    ],
)
def test_both_bars_of_a_comparison_hold(ours: float, limit: float, reverb: float | None, passed: bool) -> None:
    results = {of(OURS, "sample-uniform"): speeds(ours), of(LIMIT, "sample-uniform"): speeds(limit)}
    if reverb is not None:
        results[of(REVERB, "sample-uniform")] = speeds(reverb)
    assert row("sample-uniform", results).passed is passed


def test_better_of_two_ways_to_store_frames_counts() -> None:
    results = {
        of(OURS, "sample-atari"): speeds(30.0, 30.0, 3.0),  # the last run was disturbed, and so was its neighbour
        of(LIMIT, "sample-atari"): speeds(40.0, 40.0, 4.0),
        of(REVERB, "sample-atari"): speeds(10.0, 10.0, 10.0),
        of(REVERB, "sample-atari-frames"): speeds(20.0, 20.0, 20.0),
    }
    found = row("sample-atari", results)
    assert found.passed is True
    assert (found.share, found.times, found.reverb) == ("0.75", "1.5 x", "stacks 10, single frames 20")


def test_failed_row_says_why_and_misses_its_bar() -> None:
    results = {of(OURS, "insert-atari"): speeds(None, None, 3.0), of(LIMIT, "insert-atari"): speeds(1.0, 1.0, 1.0)}
    found = row("insert-atari", results)
    assert found.ours == "failed: no server"
    assert found.passed is False
    for name in TOPICS:
        assert row(name, {}).passed is not True


def test_absolute_bars() -> None:
    rates_of_both = {"inserted_per_s": 60_000.0, "per_s": 480_000.0}
    assert row("both", {of(OURS, "both"): [rates_of_both]}).passed is True
    assert row("both", {of(OURS, "both"): [rates_of_both | {"per_s": 479_999.0}]}).passed is False
    crowd = {"p99_ms": 149.0, "slowest_share": 0.5, "saturation_per_s": 1.0, "saturation_slowest_share": 0.4}
    assert row("fleet", {of(OURS, "fleet"): [crowd]}).passed is True
    assert row("fleet", {of(OURS, "fleet"): [crowd | {"p99_ms": 150.0}]}).passed is False
    took = {"restart_s": 2.1, "after_stop_s": 1.0, "after_kill_s": 2.1}
    assert row("restart", {of(OURS, "restart"): [took | {"steps": 1_000_000}]}).passed is False
    assert row("restart", {of(OURS, "restart"): [took | {"steps": 1_000}]}).passed is None


@pytest.mark.parametrize(("disk", "passed"), [(1000.0, False), (50.0, True)])
def test_slow_disk_excuses_its_inserts(disk: float, passed: bool) -> None:
    results = {of(OURS, name): speeds(value) for name, value in (("insert-disk", 50.0), ("insert-tmpfs", 100.0))}
    assert row("disk", results | {of(OURS, "disk"): speeds(disk)}).passed is passed


def test_compared_runs_are_neighbours_and_all_are_known() -> None:
    wanted = {name for topic in TOPICS.values() for name in topic.needs}
    heat = [contestant.name for contestant in contestants(wanted, 1.0, 10, with_peer=False)]
    assert heat[:2] == [of(OURS, "insert-cartpole"), of(LIMIT, "insert-cartpole")]
    assert {name.partition(" ")[2] for name in heat if name.startswith(OURS)} == FIGURES.keys()
    assert REVERB in PINS


def test_rows_go_into_a_document() -> None:
    block = markdown(rows_of({}, list(TOPICS)), {})
    assert block.count("\n| ") == len(TOPICS) + 1 + 1
    assert HEADINGS[0] in block
    begin, end = MARKERS
    assert between_markers(f"a\n{begin}\nold\n{end}\nb", "new", MARKERS) == f"a\n{begin}\nnew\n{end}\nb"


def test_slowest_actor_is_measured_by_the_median() -> None:
    assert slowest_share([5, 10, 20]) == 0.5
    assert slowest_share([0, 0]) == 0.0


def test_limit_carries_columns_as_they_are() -> None:
    columns = KINDS["cartpole"].columns(3, 2)
    decoded = decode(encode(columns))
    assert columns["obs"].shape == (4, 2, 4)
    for name, column in columns.items():
        np.testing.assert_array_equal(decoded[name], column)


@pytest.mark.slow
def test_limit_draws_by_priority() -> None:
    tree = new_tree(8)
    assert tree[1] == 8.0
    update(tree, np.array([3, 5]), np.array([5.0, 0.0]))
    assert tree[1] == 11.0
    np.testing.assert_array_equal(draw(tree, np.array([0.0, 2.9, 3.0, 7.9, 8.0, 9.0, 10.9])), [0, 2, 3, 3, 4, 6, 7])
