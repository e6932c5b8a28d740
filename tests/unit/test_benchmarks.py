"""benchmarks/: medians, turns, rows with their bars, and the block in a document. Nothing is measured here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contestants as c
from benchmarks import report, running
from benchmarks.__main__ import main
from benchmarks.contestants import HEATS, PEER_OF, read_run
from benchmarks.figures import Value, median, pair_ratio, worst
from benchmarks.memory import peak_mb, role_of
from benchmarks.rows import TOPICS, Row, rows_of
from benchmarks.running import Contestant, interleaved, last_json


@pytest.mark.parametrize(
    ("values", "middle", "last"),
    [
        ([3.0, 1.0, 2.0], 2.0, 3.0),
        ([1.0, 2.0, 4.0, 8.0], 3.0, 8.0),
        ([1.0, None, 2.0], 2.0, None),
        ([None, None, 2.0], None, None),
        ([], None, None),
    ],
)
def test_what_was_never_reached_is_worse_than_all(values: list[Value], middle: Value, last: Value) -> None:
    assert median(values) == middle
    assert worst(values) == last


def test_ratio_is_of_neighbours() -> None:
    # a machine that became ten times slower after the second pair: the medians' own ratio would be 100 / 20
    assert pair_ratio([100.0, 110.0, 12.0], [50.0, 50.0, 20.0]) == 2.0
    assert pair_ratio([1.0, None], [None, 2.0]) is None
    assert pair_ratio([], []) is None


def printing(name: str, code: str, **options: bool) -> Contestant:
    """A command that runs Python code and is measured by the JSON that it prints."""

    def command(seed: int, folder: Path) -> Sequence[str]:
        return [sys.executable, "-c", code, str(seed)]

    return Contestant(name, command, lambda folder, log: last_json(log), **options)


@pytest.mark.slow
def test_contestants_take_turns_and_failures_are_kept(tmp_path: Path) -> None:
    good = printing("good", "import sys; print('noise'); print('{\"env_steps_per_s\": ' + sys.argv[1] + '}')")
    bad = printing("bad", "import sys; sys.exit(3)", once=True)
    mute = printing("mute", "print('no figures')", once=True)
    lines: list[str] = []
    results = interleaved(
        [good, bad, mute, printing("unwanted", "")], ["good", "bad", "mute"], 2, tmp_path, lines.append
    )
    assert [line.partition(":")[0] for line in lines] == ["good, run 1", "bad, run 1", "mute, run 1", "good, run 2"]
    assert [run["env_steps_per_s"] for run in results["good"]] == [1, 2]
    assert results["good"][0]["command"].startswith("python -c")
    assert "ended with exit code 3" in results["bad"][0]["error"]
    assert "no line of JSON was printed" in results["mute"][0]["error"]


@pytest.mark.slow
def test_a_command_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_S", 0.05)
    result = running.run(printing("endless", "import signal; signal.pause()"), 1, tmp_path)
    assert "did not end in time" in result["error"]


def runs(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """One result a position."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def verdicts(topic: str, results: dict[str, list[dict[str, Any]]]) -> list[bool | None]:
    """Of a topic's rows."""
    return [row.passed for row in rows_of(results, [topic])]


@pytest.mark.parametrize(
    ("solved_at", "passed"),
    [
        ([30_000, 40_000, 99_000], True),
        ([30_000, 40_001, 99_000], False),
        ([30_000, 40_000, 100_001], False),
        ([30_000, 30_000, None], False),
    ],
)
def test_solved_needs_the_median_and_the_worst(solved_at: list[Value], passed: bool) -> None:
    assert verdicts("solve-ppo", {c.SHOAL_PPO: runs(solved_at_env_steps=solved_at)}) == [passed]


def fast(ours: float, **others: float) -> dict[str, list[dict[str, Any]]]:
    """Results of the fast heat."""
    names = {"limit": c.LIMIT, "one": c.SB3_PPO_FAST[0], "two": c.SB3_PPO_FAST[1], "factory": c.SAMPLE_FACTORY}
    results = {names[name]: runs(env_steps_per_s=[speed]) for name, speed in others.items()}
    solves = {c.SHOAL_PPO_FAST_SOLVES: runs(solved_at_env_steps=[300_000])}
    return {c.SHOAL_PPO_FAST: runs(env_steps_per_s=[ours]), **solves, **results}


def test_speed_is_held_against_the_better_of_each() -> None:
    assert verdicts("speed-ppo", fast(120.0, limit=200.0, one=50.0, two=60.0, factory=30.0)) == [True] * 4
    assert verdicts("speed-ppo", fast(119.0, limit=200.0, one=60.0, two=50.0, factory=30.0)) == [False] * 3 + [True]


def test_a_peer_that_is_not_installed_decides_nothing() -> None:
    rows = rows_of(fast(88_000.0, limit=100_000.0), ["speed-ppo"])
    assert [row.passed for row in rows] == [True, None, True, True]
    assert "install-peers" in rows[1].other
    assert rows[2].ratio == "4.00 x"
    assert "documented" in rows[2].other
    assert verdicts("wall-ppo", {c.SHOAL_PPO: runs(start_unix_s=[0.0])}) == [None]
    failed = {**fast(88_000.0, limit=100_000.0), c.SB3_PPO_FAST[0]: [{"error": "broke"}]}
    assert rows_of(failed, ["speed-ppo"])[1].other == "failed"


@pytest.mark.parametrize(("solved_s", "passed"), [(8.0, True), (8.1, False), (None, False)])
def test_seconds_to_solved_leave_evaluation_out(solved_s: Value, passed: bool) -> None:
    def run(start_s: float, first_s: float, last_s: Value, **rest: float) -> dict[str, Any]:
        last = None if last_s is None else start_s + last_s
        return {"start_unix_s": start_s, "first_update_unix_s": start_s + first_s, "solved_unix_s": last, **rest}

    results = {
        c.SHOAL_PPO: [run(100.0, 2.0, solved_s, evaluation_until_solved_s=1.0)],
        c.SB3_PPO: [run(200.0, 1.0, 7.0, evaluation_s=2.0)],  # 5 s, and 2 s of ours to start: at most 7 + 1
    }
    assert verdicts("wall-ppo", results) == [passed]


def test_first_update_and_memory() -> None:
    starts = {
        name: runs(start_unix_s=[0.0], first_update_unix_s=[s]) for name, s in ((c.SHOAL_PPO, 6.0), (c.SHOAL_DQN, 6.1))
    }
    assert verdicts("first-update", starts) == [True, False]
    peaks = {
        c.MEMORY_PPO: runs(peak_mb=[{"learner": 500.0, "actor": 400.0}]),
        c.MEMORY_DQN_EMBEDDED: runs(peak_mb=[{"learner": 701.0, "actor": 1.0}]),
        c.MEMORY_DQN: runs(peak_mb=[{"learner": 1.0, "actor": 300.0, "replay": 90.0}]),
    }
    assert verdicts("memory", peaks) == [False, True, None]
    assert verdicts("memory", dict.fromkeys(peaks, runs(peak_mb=[{}]))) == [None] * 3


def test_a_failed_run_of_ours_misses_every_bar() -> None:
    results = {name: [{"error": "broke"}] for name in TOPICS["speed-ppo"].needs}
    assert verdicts("speed-ppo", results) == [None, None, None, False]
    results = {**fast(1.0, limit=1.0, one=1.0, factory=1.0), c.SHOAL_PPO_FAST: [{"error": "broke"}]}
    assert verdicts("speed-ppo", results) == [False, False, False, True]
    results = {name: [{"error": "broke"}] for topic in ("solve-dqn", "first-update") for name in TOPICS[topic].needs}
    assert verdicts("solve-dqn", results) == [False]
    assert verdicts("first-update", results) == [False, False]


def test_every_topic_has_its_contestants_in_a_heat() -> None:
    there = [contestant.name for heat in HEATS for contestant in heat]
    assert len(there) == len(set(there))
    assert set(there) == {name for topic in TOPICS.values() for name in topic.needs}
    assert set(PEER_OF) <= set(there)


def test_evaluation_time_counts_until_solved(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"env_steps": 3}')
    returns = {100.0: 0.5, 475.0: 0.25, 500.0: 8.0}
    lines = [f'{{"kind": "evaluation", "eval_return": {value}, "took_s": {s}}}' for value, s in returns.items()]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(['{"kind": "progress"}', *lines]))
    assert read_run(tmp_path, tmp_path / "output.log") == {"env_steps": 3, "evaluation_until_solved_s": 0.75}


def test_peak_memory_of_this_process() -> None:
    peak = peak_mb(os.getpid())
    assert peak is not None
    assert 10 < peak < 100_000
    assert role_of(os.getpid()) is None
    assert peak_mb(2**30) is None


ROW = Row("speed", "12", "≥ 2 x", True, "5", "2.40 x")


def test_table_and_markdown_say_the_same() -> None:
    assert report.table([ROW]).row_count == 1
    text = report.markdown([ROW], {c.LIMIT: [{"command": "python -m benchmarks.limit_actor_learner"}]})
    assert "| speed | 12 | 5 | 2.40 x | ≥ 2 x | pass |" in text.splitlines()
    assert "python -m benchmarks.limit_actor_learner" in text.splitlines()


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for block in ("new", "newer"):
        report.write(document, block)
        assert document.read_text() == f"above\n{report.BEGIN}\n{block}\n{report.END}\nbelow\n"


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}\n{report.BEGIN}", f"{report.BEGIN}{report.END}" * 2])
def test_a_document_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    document = tmp_path / "performance.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="must be there once"):
        report.write(document, "block")
    assert document.read_text() == text


def test_results_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "bench" / "results.json"
    assert report.load(file) == {}
    report.keep(file, {"limit": [{"env_steps_per_s": 3}]})
    assert report.load(file) == {"limit": [{"env_steps_per_s": 3}]}


@pytest.mark.parametrize(("solved_at", "code"), [(40_000, 0), (40_001, 1)])
def test_a_missed_bar_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], solved_at: int, code: int
) -> None:
    report.keep(tmp_path / "results.json", {c.SHOAL_PPO: [{"solved_at_env_steps": solved_at, "start_unix_s": 0.0}]})
    assert main(["report", "--out", str(tmp_path)]) == code
    assert f"{solved_at:,}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["swim"], ["solve-ppo", "--repeats", "0"]])
def test_what_there_is_not_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err
