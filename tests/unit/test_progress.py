"""learner/progress.py: counters, rates and shares against sums done by hand, on a clock that the test moves."""

from __future__ import annotations

import pytest

from core.clock import FakeClock
from core.types import Episode, Result, UnrollHeader
from learner.progress import EPISODES, LATELY_S, SETTLE_DELIVERIES, Progress


def header(env_steps: int = 10, version: int = 0, slot: int = 0, *returns: float, act_s: float = 0.0) -> UnrollHeader:
    episodes = tuple(Episode(r, int(r)) for r in returns)
    return UnrollHeader(slot, version, version, env_steps, episodes, act_s, act_s / 2, act_s / 4)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def progress(clock: FakeClock) -> Progress:
    return Progress(clock.now_s, budget_env_steps=1000)


def test_nothing_is_known_before_the_first_unrolls(progress: Progress) -> None:
    progress.waited(3.0)
    assert (progress.training_s, progress.times.wait_data_s, progress.env_steps) == (0.0, 0.0, 0)
    assert (progress.mean_return, progress.mean_length, progress.env_steps_per_s) == (None, None, None)
    assert progress.window()[0] is None


def test_env_steps_episodes_and_times_add_up(progress: Progress) -> None:
    progress.received([header(10, 0, 0, 5.0, 7.0, act_s=4.0), header(20, 0, 1, 3.0, act_s=2.0)], 9.0, 8.0)
    progress.received([header(30)], 2.0, 1.0)
    assert (progress.env_steps, progress.episodes) == (60, 3)
    assert (progress.mean_return, progress.mean_length) == (5.0, 5.0)
    times = progress.times
    assert (times.act_s, times.wait_weights_s, times.wait_acks_s) == (6.0, 3.0, 1.5)
    assert (times.wait_data_s, times.limiter_s) == (2.0, 1.0)  # the wait before the first one is not training


def test_the_mean_return_is_over_the_newest_hundred_episodes(progress: Progress) -> None:
    progress.received([header(1, 0, 0, *[1000.0] * 30)], 0.0, 0.0)
    progress.received([header(1, 0, 0, *[2.0] * 60)], 0.0, 0.0)
    progress.received([header(1, 0, 0, *[5.0] * 40)], 0.0, 0.0)
    assert EPISODES == 100
    assert progress.mean_return == (60 * 2.0 + 40 * 5.0) / 100
    assert progress.episodes == 130


def test_staleness_is_versions_behind_and_its_worst_is_kept(progress: Progress) -> None:
    progress.version = 5
    progress.received([header(1, 5), header(1, 2)], 0.0, 0.0)
    assert (progress.staleness, progress.max_staleness) == (1.5, 3)
    progress.received([header(1, 5)], 0.0, 0.0)
    assert (progress.staleness, progress.max_staleness) == (0.0, 3)
    progress.received([], 0.0, 0.0)
    assert (progress.staleness, progress.max_staleness) == (0.0, 3)


def test_speed_counts_between_deliveries_and_leaves_evaluations_and_their_wake_out(
    progress: Progress, clock: FakeClock
) -> None:
    clock.advance(50.0)
    progress.received([header(1000)], 50.0, 0.0)  # collected before the clock of speeds starts: not counted
    clock.advance(2.0)
    progress.received([header(100)], 1.0, 0.0)
    clock.advance(6.0)
    progress.evaluated(3.0, took_s=6.0, target_return=None)
    assert progress.env_steps_per_s == 50.0
    for _ in range(SETTLE_DELIVERIES):
        clock.advance(0.1)
        progress.received([header(500)], 0.0, 0.0)  # actors had worked ahead meanwhile: not counted either
    assert progress.env_steps_per_s == 50.0
    clock.advance(2.0)
    progress.received([header(300)], 0.0, 0.0)
    assert progress.env_steps_per_s == pytest.approx(400 / 4)
    assert progress.training_s == pytest.approx(4.3)
    assert progress.times.wall_s == pytest.approx(10.3)


def test_where_evaluations_leave_nothing_to_measure_the_speed_is_that_of_wall_time(
    progress: Progress, clock: FakeClock
) -> None:
    progress.received([header(100)], 0.0, 0.0)
    for _ in range(3):
        clock.advance(8.0)
        progress.evaluated(1.0, took_s=8.0, target_return=None)
        clock.advance(2.0)
        progress.received([header(100)], 0.0, 0.0)
    assert progress.env_steps_per_s == 10.0


def test_a_window_counts_from_the_last_one(progress: Progress, clock: FakeClock) -> None:
    progress.received([header(100)], 0.0, 0.0)
    clock.advance(10.0)
    assert progress.window()[0] == 0.0
    clock.advance(2.0)
    progress.received([header(80, act_s=4.0)], 2.0, 1.0)
    clock.advance(2.0)
    progress.evaluated(1.0, 2.0, None)
    rate, shares = progress.window()
    assert rate == 40.0  # 80 env steps in 4 - 2 s
    assert list(vars(shares).values()) == pytest.approx([1.0, 4 / 7, 2 / 7, 1 / 7, 0.5])
    clock.advance(8.0)
    progress.waited(2.0)
    rate, shares = progress.window()
    assert (rate, shares.learner_waits, shares.actors_act, shares.limiter_holds) == (None, 0.25, 0.0, 0.0)


def test_shares_never_exceed_one(progress: Progress, clock: FakeClock) -> None:
    progress.received([header(1)], 0.0, 0.0)
    clock.advance(1.0)
    progress.received([header(1)], 5.0, 9.0)
    _, shares = progress.window()
    assert (shares.learner_waits, shares.limiter_holds) == (1.0, 1.0)


def test_a_resumed_run_counts_on_but_its_speed_begins_anew(progress: Progress, clock: FakeClock) -> None:
    before = Progress(clock.now_s, 1000)
    before.received([header(500, 0)], 0.0, 0.0)
    before.updates, before.version, before.episodes = 20, 7, 4
    before.evaluated(3.0, 0.1, target_return=2.0)
    progress.restore(before.to_plain(), exact=False)
    assert (progress.episodes, progress.evaluations, progress.resumes) == (4, 1, 1)
    assert progress.solved_at_env_steps is None, "the target may be another now"
    progress.received([header(100, 7)], 0.0, 0.0)
    clock.advance(10.0)
    assert (progress.env_steps, progress.updates, progress.version) == (600, 20, 7)
    progress.received([header(200, 7)], 0.0, 0.0)
    assert progress.env_steps_per_s == 20.0
    assert progress.window()[0] == 20.0
    assert progress.staleness == 0.0


def test_updates_and_metrics_are_those_of_the_newest_round(progress: Progress) -> None:
    progress.updated(Result(3, {"loss": 1.0}), 0.5)
    progress.updated(Result(0, {"loss": 2.0}), 0.25)
    assert (progress.updates, progress.algorithm, progress.times.update_s) == (3, {"loss": 2.0}, 0.75)


def test_solved_is_the_first_evaluation_at_the_target(progress: Progress) -> None:
    for env_steps, mean_return in ((100, 474.9), (100, 475.0), (100, 400.0), (100, 500.0)):
        progress.received([header(env_steps)], 0.0, 0.0)
        progress.evaluated(mean_return, 1.0, target_return=475.0)
    assert (progress.solved_at_env_steps, progress.eval_return) == (200, 500.0)
    assert progress.times.evaluation_s == 4.0


def test_without_a_target_nothing_is_solved(progress: Progress) -> None:
    progress.evaluated(1e9, 1.0, target_return=None)
    assert progress.solved_at_env_steps is None


def test_the_verdict_of_late_forgets_what_was_long_ago(progress: Progress, clock: FakeClock) -> None:
    progress.received([header(1)], 0.0, 0.0)
    seen = []
    for second in range(200):
        clock.advance(1.0)
        waited_s = 0.9 if second < 120 else 0.0  # then an actor more has joined
        progress.received([header(1, act_s=0.9)], waited_s, 0.0)
        progress.window()
        seen.append(progress.verdict_of_late().part)
    assert seen[:120] == ["actors"] * 120
    assert seen[121 + round(LATELY_S) :] == ["learner"] * len(seen[121 + round(LATELY_S) :])
    assert progress.verdict().part == "actors", "of the whole run it was"


@pytest.mark.parametrize(("wait_s", "act_s", "part"), [(1.0, 8.0, "learner"), (9.0, 8.0, "actors")])
def test_the_verdict_is_on_the_whole_run(
    wait_s: float, act_s: float, part: str, progress: Progress, clock: FakeClock
) -> None:
    progress.received([header(1)], 0.0, 0.0)
    clock.advance(10.0)
    progress.received([header(1, act_s=act_s)], wait_s, 0.0)
    progress.window()
    assert progress.verdict().part == part
