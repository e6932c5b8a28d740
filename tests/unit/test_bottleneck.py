"""learner/bottleneck.py: which part is named, at the borders too, and that the advice carries the figure."""

from __future__ import annotations

import itertools

import pytest

from learner.bottleneck import Shares, judge


@pytest.mark.parametrize(
    ("waits", "act", "limiter", "part"),
    [
        (0.0, 0.9, 0.0, "learner"),
        (0.49, 0.9, 0.9, "learner"),
        (0.5, 0.9, 0.0, "actors"),
        (0.8, 0.5, 0.0, "actors"),
        (0.8, 0.49, 0.0, "network"),
        (0.8, 0.49, 0.5, "network"),
        (0.8, 0.49, 0.51, "replay"),
        (0.8, 0.9, 0.9, "actors"),  # held back, but by actors that cannot go faster
        (1.0, 0.0, 1.0, "replay"),
    ],
)
def test_the_part_that_holds_the_run_back(waits: float, act: float, limiter: float, part: str) -> None:
    rest = (1 - act) / 2
    assert judge(Shares(waits, act, rest, rest, limiter)).part == part


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (Shares(0.2, 0.4, 0.6, 0.0), "the learner computes 80 % of the time, actors wait 60 % for weights"),
        (Shares(0.7, 0.2, 0.1, 0.7), "the actors wait 70 % for acknowledgements: a larger network.window_chunks"),
        (Shares(0.7, 0.6, 0.4, 0.0), "the learner waits 70 % of the time and the actors act 60 %: more --actors"),
        (Shares(0.7, 0.2, 0.8, 0.0), "the actors act only 20 %"),
        (Shares(0.7, 0.2, 0.0, 0.8, 0.9), "mostly for the rate limiter: more updates_per_env_step"),
    ],
)
def test_the_advice_has_the_figure_and_what_to_change(shares: Shares, words: str) -> None:
    assert words in judge(shares).advice


def test_there_is_a_verdict_for_everything() -> None:
    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    for waits, act, limiter in itertools.product(steps, steps, steps):
        verdict = judge(Shares(waits, act, 1 - act, 0.0, limiter))
        assert judge(Shares(waits, act, 0.0, 1 - act, limiter)).part != "network"
        assert verdict.part in ("learner", "actors", "replay", "network", "window")
        assert verdict.advice
