"""Progress: read while it is written, shown as lines or as a panel."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shoal import report
from shoal.live import WAITING, LineView, PanelView, clock, line, panel, sparkline
from shoal.progress import Progress, Tail
from shoal.training import RunResult

RECORD: dict[str, Any] = {
    "kind": "progress",
    "wall_s": 12.0,
    "env_steps": 50_000,
    "env_steps_per_s": 5_000.0,
    "updates": 640,
    "version": 32,
    "episodes": 400,
    "mean_return": 123.45,
    "staleness": 1.0,
    "actors": 2,
    "bottleneck": "actors",
    "advice": "start more actors (--actors 4)",
}


def fresh() -> Progress:
    return Progress("ppo", "CartPole-v1", 100_000, 475.0)


def shown(progress: Progress, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(panel(progress, Path("runs/x")))
    return console.export_text()


def test_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert tail.read() == []
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write('{"a": 1}\n{"a"')
        file.flush()
        assert tail.read() == [{"a": 1}]
        assert tail.read() == []
        file.write(': 2}\n{broken\n[]\n{"a": 3}\n')
    assert tail.read() == [{"a": 2}, {"a": 3}]


def test_a_file_that_was_replaced_is_read_anew_and_its_returns_count_once(tmp_path: Path) -> None:
    path, progress = tmp_path / "metrics.jsonl", fresh()
    tail = Tail(path)
    lines = [json.dumps({"kind": "progress", "env_steps": n, "mean_return": float(n)}) + "\n" for n in (1, 2, 3)]
    path.write_text("".join(lines))
    progress.take(tail.read(), tail.replaced)
    (tmp_path / "other").write_text("".join(lines[:2]) + lines[0].replace("1.0", "9.0"))
    (tmp_path / "other").rename(path)
    progress.take(tail.read(), tail.replaced)
    assert (tail.replaced, progress.returns) == (1, [1.0, 2.0, 9.0])


def test_progress_keeps_the_newest_of_each() -> None:
    progress = fresh()
    assert (progress.share, progress.left_s, progress.mean_return) == (0.0, None, None)
    progress.take([RECORD, {"kind": "evaluation", "env_steps": 45_000, "eval_return": 200.0}])
    progress.take([{"kind": "progress", "env_steps": 60_000}])
    assert (progress.env_steps, progress.share, progress.left_s) == (60_000, 0.6, 8.0)
    assert (progress.eval_return, progress.eval_env_steps, progress.mean_return) == (200.0, 45_000, 123.45)
    assert progress.returns == [123.45]


def test_more_steps_than_the_budget_are_all_of_it() -> None:
    progress = fresh()
    progress.take([RECORD | {"env_steps": 100_352}])
    assert (progress.share, progress.left_s) == (1.0, 0.0)


def test_a_line_holds_what_is_known_and_nothing_else() -> None:
    progress = fresh()
    assert line(progress) == "0 of 100,000 env steps (0%) | version 0 | 0 actors"
    progress.take([RECORD, {"kind": "evaluation", "env_steps": 45_000, "eval_return": 200.0}])
    assert line(progress) == (
        "50,000 of 100,000 env steps (50%) | 5,000 env steps/s | return 123.5 | evaluation 200.0 | version 32 | "
        "staleness 1.0 | 2 actors | bottleneck actors | 0:10 left"
    )


def test_a_line_every_five_seconds_and_one_at_the_end() -> None:
    now_s, out, progress = [0.0], io.StringIO(), fresh()
    view = LineView(out, lambda: now_s[0])
    view.update(progress)
    assert out.getvalue() == ""
    for second in range(12):
        now_s[0] = float(second)
        progress.take([RECORD])
        view.update(progress)
    assert out.getvalue().count("\n") == 3  # at 0, 5 and 10 s
    view.close()
    view.close()
    assert out.getvalue().count("\n") == 4


@pytest.mark.parametrize("width", [64, 80, 140])
def test_the_panel_shows_everything_at_any_width(width: int) -> None:
    progress = fresh()
    assert WAITING.split()[0] in shown(progress, width)
    progress.take([RECORD, {"kind": "evaluation", "env_steps": 45_000, "eval_return": 480.0}])
    text = shown(progress, width)
    for part in (
        "CartPole-v1",
        "50%",
        "50,000",
        "5,000",
        "123.5",
        "480.0",
        "640",
        "32",
        "1.0 versions",
        "0:10 left",
        "actors",
    ):
        assert part in text, part
    assert "start more actors (--actors 4)" in " ".join(text.replace("│", " ").split())
    assert max(map(len, text.splitlines())) <= width


def test_the_address_of_the_page_is_said_once_and_again_when_it_is_another() -> None:
    out, progress = io.StringIO(), fresh()
    view = LineView(out, lambda: 0.0)
    for page in (None, "http://127.0.0.1:1/", "http://127.0.0.1:1/", "http://127.0.0.1:2/"):
        progress.page = page
        view.update(progress)
    assert out.getvalue() == "page http://127.0.0.1:1/\npage http://127.0.0.1:2/\n"


def test_the_panel_has_the_address_of_the_page() -> None:
    out, progress = io.StringIO(), fresh()
    progress.page = "http://127.0.0.1:41234/"
    Console(file=out, width=60, color_system=None).print(panel(progress, Path("runs/x")))
    assert "page http://127.0.0.1:41234/" in out.getvalue()


def test_notes_scroll_by_above_the_panel() -> None:
    out = io.StringIO()
    view = PanelView(Console(file=out, force_terminal=True, width=80, color_system=None), Path("runs/x"))
    progress = fresh()
    progress.take([RECORD])
    view.update(progress)
    view.note("actor-0 ended: [odd] text")
    view.close()
    text = out.getvalue()
    assert "actor-0 ended: [odd] text" in text
    assert text.rindex("50,000") > text.index("actor-0 ended")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is given back


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([5.0]) == "▁"
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline([float(i) for i in range(1000)], width=16)) == 16


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.4, 61, 3600, 36_061)] == ["0:00", "0:59", "1:01", "1:00:00", "10:01:01"]


@pytest.mark.parametrize(
    ("target", "solved_at", "words"),
    [
        (475.0, 38_000, "Solved: ppo on CartPole-v1, target return 475.0 reached after 38,000 env steps"),
        (475.0, None, "Not solved: ppo on CartPole-v1, target return 475.0 not reached within 100,000 env steps"),
        (None, None, "Done: ppo on CartPole-v1"),
    ],
)
def test_the_end_says_where_everything_is(
    tmp_path: Path, target: float | None, solved_at: int | None, words: str
) -> None:
    run = tmp_path / ("a rather long name of a run directory " * 3)
    (run / "checkpoints" / "000000100000").mkdir(parents=True)
    (run / "checkpoints" / "000000100000" / "meta.json").write_text(json.dumps({"eval_return": 500.0}))
    (run / "learning_curve.png").touch()
    figures = {"env_steps": 100_000, "updates": 1_280, "wall_s": 20.0, "env_steps_per_s": 5_000.0, "mean_return": None}
    summary = {"algorithm": "ppo", "env": "CartPole-v1", "seed": 1, "eval_return": 499.5, **figures}
    (run / "summary.json").write_text(json.dumps(summary | {"solved_at_env_steps": solved_at, "restarts": 0}))
    result = RunResult.read(run)
    assert (result.eval_return, result.mean_return, result.bottleneck) == (499.5, None, None)
    out = io.StringIO()
    report.show(result, target, Console(file=out, width=60))
    text = out.getvalue()
    assert words in text.replace("\n", " ").replace("  ", " ")
    for place in ("summary.json", "learning_curve.png", "checkpoints/000000100000", "logs/"):
        assert f"{run}/{place}\n" in text
    assert f"shoal eval '{run}' --video\n" in text
