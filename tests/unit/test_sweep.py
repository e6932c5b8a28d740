"""What a sweep varies, and what it leaves: without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import ConfigError
from shoal.cli import main
from shoal.on_ray.space import Choice, Range, first_of, parse
from shoal.on_ray.sweep import Search
from shoal.on_ray.sweep_report import Trial, ranked, show, write

TRIALS = (
    Trial("a", {"ppo.epochs": 4, "ppo.learning_rate": 0.00123456}, [(100, 10.0), (200, 20.0)], 21.0),
    Trial("b", {"ppo.epochs": 8, "ppo.learning_rate": 0.1}, [(100, 50.0)], None),
    Trial("c", {"ppo.epochs": 1, "ppo.learning_rate": 9.0}, [(100, 99.0)], None, "DivergedError: a loss is nan"),
    Trial("d", {"ppo.epochs": 2, "ppo.learning_rate": 0.2}, [], None),
)


def test_lists_and_ranges_are_told_apart() -> None:
    assert parse(["ppo.epochs=4,10", "a.b=x", "c=1e-4..1e-2:log", "d=2..8", "e=-1.5..1"], "random") == [
        Choice("ppo.epochs", (4, 10)),
        Choice("a.b", ("x",)),
        Range("c", 1e-4, 1e-2, log=True),
        Range("d", 2, 8, log=False),
        Range("e", -1.5, 1, log=False),
    ]
    assert Range("d", 2, 8, log=False).is_whole
    assert not Range("e", -1.5, 1, log=False).is_whole


def test_every_problem_of_a_space_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(["x", "y=3..1", "z=0..1:log", "u=a..b", "v=1", "v=2"], "random")
    said = str(caught.value)
    for part in (
        "--vary x: must be",
        "y=3..1: the lower",
        "z=0..1:log: with :log",
        "u=a..b: the ends",
        "v: given 2 times",
    ):
        assert part in said
    assert len(caught.value.problems) == 5


def test_a_grid_is_of_lists() -> None:
    with pytest.raises(ConfigError, match="a grid needs a list"):
        parse(["x=1..2"], "grid")
    with pytest.raises(ConfigError, match="is needed"):
        parse([], "grid")


def test_all_values_and_ends_are_tried_once_before_anything_starts() -> None:
    space = parse(["x=1,2,3", "y=4..5"], "random")
    assert first_of(space) == [{"x": 1, "y": 4}, {"x": 2, "y": 5}, {"x": 3, "y": 5}]


def test_a_search_needs_trials() -> None:
    with pytest.raises(ConfigError, match="2 problems"):
        Search("random", 0, -1).check()
    with pytest.raises(ConfigError, match="a population"):
        Search("pbt", 1).check()
    Search("asha", 1).check()


def test_a_sweep_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--resume", "--run-dir", "x"]) == 2
    assert "a sweep cannot be continued" in capsys.readouterr().err


def test_the_best_comes_first_and_failures_last() -> None:
    assert [trial.id for trial in ranked(TRIALS)] == ["b", "a", "d", "c"]


def test_table_file_and_plot_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(TRIALS, tmp_path, "ppo on CartPole-v1: random search")
    document = json.loads((tmp_path / "sweep.json").read_text())
    assert [trial["mean_return"] for trial in document] == [50.0, 20.0, None, 99.0]
    assert document[1]["env_steps"] == 200
    assert document[3]["error"] == "DivergedError: a loss is nan"
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    console = Console(width=160, record=True)
    show(ranked(TRIALS), tmp_path, console)
    shown = console.export_text()
    assert "best: --set ppo.epochs=8 ppo.learning_rate=0.1" in shown
    assert "0.001235" in shown
    assert "a loss is nan" in shown
