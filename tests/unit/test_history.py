"""learner/history.py: few points, of which each says what it stands for."""

from __future__ import annotations

import pytest

from learner.history import History


def filled(count: int, most: int) -> History:
    history = History(most)
    for i in range(count):
        history.add({"env_steps": 10 * (i + 1), "mean_return": float(i)})
    return history


def test_few_records_are_kept_as_they_are() -> None:
    assert filled(3, 4).columns() == {"env_steps": [10, 20, 30], "mean_return": [0.0, 1.0, 2.0]}


def test_many_are_means_that_stand_where_the_newest_of_each_does() -> None:
    assert filled(4, 4).columns() == {"env_steps": [20, 40], "mean_return": [0.5, 2.5]}
    assert filled(8, 4).columns() == {"env_steps": [40, 80], "mean_return": [1.5, 5.5]}


def test_the_newest_record_is_always_there() -> None:
    assert filled(7, 4).columns() == {"env_steps": [20, 40, 60, 70], "mean_return": [0.5, 2.5, 4.5, 6.0]}


@pytest.mark.parametrize("count", [1, 5, 99, 1000, 4097])
def test_there_are_never_more_than_the_most_and_no_mean_is_lost(count: int) -> None:
    columns = filled(count, 16).columns()
    assert len(columns["env_steps"]) <= 16
    assert columns["env_steps"][-1] == 10 * count
    assert columns["env_steps"] == sorted(set(columns["env_steps"]))  # type: ignore[type-var]


def test_a_figure_that_a_record_lacks_is_none_and_spoils_no_mean() -> None:
    history = History(4)
    history.add({"env_steps": 1, "kl": 2.0})
    history.add({"env_steps": 2, "loss": 4.0})
    assert history.columns() == {"env_steps": [1, 2], "kl": [2.0, None], "loss": [None, 4.0]}
    history.add({"env_steps": 3, "kl": 6.0})
    history.add({"env_steps": 4, "kl": 8.0})
    assert history.columns() == {"env_steps": [2, 4], "kl": [2.0, 7.0], "loss": [4.0, None]}


def test_texts_and_records_without_env_steps_are_left_out() -> None:
    history = History()
    history.add({"env_steps": 1, "advice": "more actors", "solved": True, "loss": 1 / 3})
    history.add({"loss": 1.0})
    assert history.columns() == {"env_steps": [1], "loss": [0.333333]}
