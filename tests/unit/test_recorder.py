"""learner/recorder.py: lines about once a second, counters that add up, a summary that is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.clock import FakeClock
from core.config import Config
from core.metrics import CATALOGUE, Metrics
from core.types import Episode, Result, UnrollHeader
from learner.page import Page
from learner.progress import Progress
from learner.recorder import Recorder
from learner.status import Seated, Status, Waiter
from replay_server.exporter import GAUGES, TOTALS

REPLAY_SERVERS = {"in_flight_bytes", "replay_bytes", "replay_limit_bytes", "streams"}
"""What only a replay server tells: tests/unit/test_exporter.py."""
ACTORS = {name for name in CATALOGUE if name.startswith("process_")}
"""What only an actor tells: tests/unit/test_actor_exporter.py."""
GPUS = {name for name in CATALOGUE if name.startswith("gpu_")}
"""What only a learner with a GPU tells: tests/unit/test_learner_exporter.py."""


class Board:
    """In TensorBoard's place, whose import takes seconds."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


class Run:
    """A run directory, its clock and its recorder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.board = folder, FakeClock(50.0), Board()
        self.progress = Progress(self.clock.now_s, budget_env_steps=1000)
        self.recorder = Recorder(folder, self.progress, Metrics())
        self.recorder._board = self.board

    def receive(self, env_steps: int, *returns: float) -> None:
        episodes = tuple(Episode(r, int(r)) for r in returns)
        self.progress.received([UnrollHeader(0, 0, 0, env_steps, episodes, act_s=1.0)], 0.5, 0.0)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def status(actors: int, **more: Any) -> Callable[[], Status]:
    """What the services would say."""
    return lambda: Status(actors=actors, **more)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.recorder.close()
    assert run.board.closed


def test_before_the_first_unrolls_no_line_is_written_but_waits_and_memory_are_told(run: Run) -> None:
    waits = (Waiter("experience", "the learner", "actors", 7.0, "0 of 2 actors have joined"),)
    run.recorder.tick(status(3, waiters=waits))
    assert run.lines() == []
    assert run.recorder.verdict.part == "starting"
    metrics = run.recorder.metrics
    assert metrics.value("waiters", table="experience", what="actors") == 1
    assert metrics.value("longest_wait_s", table="experience", what="actors") == 7.0
    assert metrics.value("rss_bytes", process="learner") is not None
    assert metrics.value("env_steps_per_s") is None


def test_a_progress_line_has_what_is_known_and_nothing_else(run: Run) -> None:
    run.receive(100)
    run.clock.advance(2.0)
    run.progress.version = 4
    run.progress.updated(Result(6, {"loss": 0.5, "entropy": 0.7}), 1.0)
    run.recorder.tick(status(2))
    (line,) = run.lines()
    assert {name: line[name] for name in ("kind", "env_steps", "updates", "version", "episodes", "actors")} == {
        "kind": "progress",
        "env_steps": 100,
        "updates": 6,
        "version": 4,
        "episodes": 0,
        "actors": 2,
    }
    assert (line["wall_s"], line["env_steps_per_s"], line["loss"], line["entropy"]) == (2.0, 0.0, 0.5, 0.7)
    assert "mean_return" not in line  # absent rather than NaN
    assert line["bottleneck"] == run.recorder.verdict.part == "learner"
    assert line["advice"] == run.recorder.verdict.advice
    assert ("loss", 0.5, 100) in run.board.scalars
    assert ("env_steps_per_s", 0.0, 100) in run.board.scalars


def test_lines_come_once_a_second_unless_one_is_asked_for(run: Run) -> None:
    run.receive(10)
    for _ in range(35):
        run.recorder.tick(status(1))
        run.clock.advance(0.1)
    assert len(run.lines()) == 4
    run.recorder.tick(status(1), force=True)
    assert len(run.lines()) == 5


def test_a_run_of_seconds_has_more_lines_while_each_has_much_to_tell(run: Run) -> None:
    for env_steps in [100] * 6 + [1] * 6:  # of a budget of 1000
        run.receive(env_steps)
        run.recorder.tick(status(1))
        run.clock.advance(0.0625)
    assert [line["env_steps"] for line in run.lines()] == [100, 300, 500, 601]


def test_an_episodes_mean_return_is_in_the_line_and_in_the_metrics(run: Run) -> None:
    run.receive(10, 3.0, 5.0)
    run.recorder.tick(status(1))
    assert run.lines()[0]["mean_return"] == 4.0
    assert run.recorder.metrics.value("mean_return") == 4.0
    assert run.recorder.metrics.value("eval_return") is None


def test_counters_add_up_over_ticks(run: Run) -> None:
    for env_steps, updates in ((100, 2), (50, 1), (0, 0)):
        run.receive(env_steps, 1.0)
        run.progress.updated(Result(updates, {"loss": float(env_steps)}), 0.1)
        run.recorder.tick(status(1), force=True)
    metrics = run.recorder.metrics
    assert metrics.value("env_steps") == run.progress.env_steps == 150
    assert metrics.value("updates") == 3
    assert metrics.value("episodes") == 3
    assert metrics.value("learner_wait_data_s") == run.progress.times.wait_data_s == 1.0
    assert metrics.value("algorithm", name="loss") == 0.0
    assert metrics.value("actors") == 1


def test_the_services_are_asked_only_when_a_line_is_due(run: Run) -> None:
    asked = []

    def ask() -> Status:
        asked.append(run.clock.now_s())
        return Status()

    run.receive(10)
    for _ in range(4):
        run.recorder.tick(ask)
        run.clock.advance(0.5)
    assert asked == [50.0, 51.0]


def test_tables_and_restarts_are_exported(run: Run) -> None:
    figures = {"items": 3, "capacity": 4, "held_bytes": 99, "inserted": 7, "sampled": 5, "duplicates": 1, "dropped": 2}
    none = {**dict.fromkeys(figures, 0)}
    run.recorder.tick(status(0, tables={"experience": none}), force=True)
    for replaced in (1, 3):
        run.receive(10)
        run.recorder.tick(status(1, replaced=replaced, tables={"experience": figures}), force=True)
    metrics = run.recorder.metrics
    assert metrics.value("restarts", process="actor") == 3
    assert metrics.value("table_items", table="experience") == 3
    assert metrics.value("table_capacity_items", table="experience") == 4
    assert metrics.value("table_bytes", table="experience") == 99
    assert metrics.value("table_inserted_items", table="experience") == 7
    assert metrics.value("table_sampled_items", table="experience") == 5
    assert metrics.value("table_duplicates", table="experience") == 1
    assert metrics.value("stale_items_dropped") == 2
    rss = metrics.value("rss_bytes", process="learner")
    assert rss is not None
    assert rss > 1e6


def test_unrolls_are_counted_by_actor_and_merged_ones_by_nobody(run: Run) -> None:
    run.progress.version = 4
    run.recorder.received([UnrollHeader(2, 3, 3, 10, (), 1.0, 0.5, 0.25), UnrollHeader(2, 4, 4, 5)])
    run.recorder.received([UnrollHeader(-1, 9, 9, 1000, (), 7.0)])
    for _ in range(2):  # what was told once is not told again
        run.recorder.tick(lambda: Status())
    metrics = run.recorder.metrics
    assert metrics.value("actor_env_steps", slot=2) == 15
    assert metrics.value("actor_act_s", slot=2) == 1.0
    assert metrics.value("actor_wait_weights_s", slot=2) == 0.5
    assert metrics.value("actor_wait_acks_s", slot=2) == 0.25
    assert metrics.value("actor_env_steps", slot=-1) is None
    assert metrics.value("staleness") == 1.0  # the sum: 1 version, and none for the others


def test_an_evaluation_has_its_own_line(run: Run) -> None:
    run.receive(70)
    run.recorder.evaluation(12.5, episodes=20, took_s=0.25)
    assert run.lines() == [{"kind": "evaluation", "env_steps": 70, "eval_return": 12.5, "episodes": 20, "took_s": 0.25}]
    assert run.board.scalars == [("eval_return", 12.5, 70)]


def test_lines_are_appended_after_a_resume(run: Run) -> None:
    run.recorder.evaluation(1.0, 1, 0.5)
    again = Recorder(run.folder, run.progress, Metrics())
    again._board = Board()
    again.evaluation(2.0, 1, 0.5)
    again.close()
    assert [line["eval_return"] for line in run.lines()] == [1.0, 2.0]


def test_lines_beyond_the_checkpoint_and_torn_ones_are_taken_back(run: Run) -> None:
    for env_steps in (10, 20, 30):
        run.progress.env_steps = env_steps
        run.recorder.evaluation(float(env_steps), 1, 0.5)
    run.recorder.close()
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "progress", "env_st')
    before = path.stat().st_ino
    run.progress.env_steps = 20
    Recorder(run.folder, run.progress, Metrics()).close()
    assert [line["env_steps"] for line in run.lines()] == [10, 20]
    assert path.stat().st_ino != before, "who reads along must notice"
    before = path.stat().st_ino
    Recorder(run.folder, run.progress, Metrics()).close()
    assert path.stat().st_ino == before


def test_a_line_is_on_disk_as_soon_as_it_is_written(run: Run) -> None:
    run.recorder.evaluation(1.0, 1, 0.5)
    assert (run.folder / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_the_summary_has_what_the_run_was_and_became(run: Run) -> None:
    run.receive(0)
    run.clock.advance(2.0)
    run.receive(100, 8.0)
    run.clock.advance(2.0)
    run.progress.evaluated(475.0, 2.0, target_return=475.0)
    run.recorder.tick(status(1), force=True)
    run.recorder.summary({"algorithm": "ppo", "seed": 3})
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["seed"], summary["env_steps"], summary["updates"]) == ("ppo", 3, 100, 0)
    assert (summary["wall_s"], summary["evaluation_s"], summary["env_steps_per_s"]) == (4.0, 2.0, 50.0)
    assert (summary["mean_return"], summary["eval_return"], summary["solved_at_env_steps"]) == (8.0, 475.0, 100)
    assert summary["bottleneck"] == run.progress.verdict().part
    assert [p.name for p in run.folder.iterdir() if "summary" in p.name] == ["summary.json"]


def test_a_summary_before_anything_happened_has_nulls(run: Run) -> None:
    run.recorder.summary({})
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["mean_return"] is summary["env_steps_per_s"] is summary["solved_at_env_steps"] is None


def test_a_summary_that_cannot_be_written_leaves_the_former_one(run: Run) -> None:
    run.recorder.summary({"n": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        run.recorder.summary({"n": float("nan")})
    assert json.loads((run.folder / "summary.json").read_text())["n"] == 1


def test_a_full_run_sets_every_figure_of_the_catalogue_and_names_no_other(run: Run) -> None:
    header = UnrollHeader(0, 0, 0, 10, (Episode(1.0, 1),), 1.0, 0.5, 0.5)
    for _ in range(2):
        run.progress.received([header], 0.5, 0.0)
        run.recorder.received([header])
        run.clock.advance(1.0)
        run.progress.updated(Result(1, {"loss": 0.5}), 0.5)
    run.progress.evaluated(475.0, 1.0, None)
    run.recorder.exporter.weights(1000, 0.1)
    table = dict.fromkeys((*GAUGES, *TOTALS, "dropped", "torn"), 1.0)
    waits = (Waiter("table", "the learner", "a round", 1.0, "why"),)
    run.recorder.tick(status(1, replaced=1, tables={"table": table}, waiters=waits), force=True)
    run.recorder.metrics.set("actors", float("nan"))  # for metrics_not_finite
    run.recorder.metrics.set("actors", 1.0)
    text = run.recorder.metrics.text().decode()
    missing = [name for name, metric in CATALOGUE.items() if f"\n# TYPE shoal_{name} {metric.kind}" not in f"\n{text}"]
    others = REPLAY_SERVERS | ACTORS | GPUS
    assert {name for name in missing if f"# TYPE shoal_{name}_total counter" not in text} == others
    assert set(run.recorder.figures) <= set(CATALOGUE)


def test_the_table_s_fill_is_in_the_lines_where_there_is_a_table(run: Run) -> None:
    run.receive(10)
    run.recorder.tick(status(1), force=True)
    tables = {"a": {"items": 1.0, "capacity": 4.0}, "b": {"items": 0.0, "capacity": 0.0}, "c": {"bytes": 1.0}}
    run.recorder.tick(status(1, tables=tables), force=True)
    assert [line.get("table_fill") for line in run.lines()] == [None, 0.25]


def test_its_page_is_told_all_of_it_and_what_was_written_before(tmp_path: Path) -> None:
    before = {"kind": "progress", "env_steps": 5, "mean_return": 1.0}
    late = {"kind": "progress", "env_steps": 900, "mean_return": 9.0}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(before)}\n{json.dumps(late)}\n")
    progress = Progress(FakeClock(50.0).now_s, budget_env_steps=1000, env_steps=5)
    page = Page(Config(), tmp_path)
    recorder = Recorder(tmp_path, progress, Metrics(), page)
    recorder._board = Board()
    recorder.tick(status(1, seated=(Seated(0, "a", 1, "acting"),)))
    assert [actor["host"] for actor in json.loads(page.live())["actors"]] == ["a"]
    headers = [UnrollHeader(0, 0, 0, 7, (Episode(3.0, 7),))]
    progress.received(headers, 0.5, 0.0)
    recorder.received(headers)
    recorder.tick(status(1, seated=(Seated(0, "a", 1, "acting", env_steps=7),)), force=True)
    recorder.evaluation(4.0, 2, 0.1)
    live = json.loads(page.live())
    recorder.close()
    assert live["progress"]["env_steps"] == [5, 12]
    assert live["progress"]["mean_return"] == [1.0, 3.0]
    assert live["evaluations"]["eval_return"] == [4.0]
    assert live["actors"][0]["env_steps"] == 7
