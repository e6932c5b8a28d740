"""shoal/restarts.py: how often, and after which pause."""

from __future__ import annotations

from functools import partial

from shoal.restarts import FORGIVEN_AFTER_S, LONGEST_PAUSE_S, Restarts


def nothing() -> None:
    """Started."""


def test_at_once_then_after_growing_pauses_until_the_budget_is_used_up() -> None:
    restarts, started = Restarts(budget=3), list[float]()
    restarts.started("a", 0.0)
    said = []
    for now_s in (1.0, 2.0, 4.0):
        said.append(restarts.allow("a", now_s, partial(started.append, now_s)))
        restarts.run_due(now_s)
        restarts.run_due(now_s + 10)
    assert said == [
        *("started again (restart 1 of 3)", "started again in 1 s (restart 2 of 3)"),
        "started again in 2 s (restart 3 of 3)",
    ]
    assert started == [1.0, 2.0, 4.0]
    assert restarts.allow("a", 5.0, started.clear) is None
    assert restarts.used("a") == 3
    assert restarts.allow("b", 5.0, started.clear) is not None, "each has a budget of its own"


def test_nobody_is_started_before_his_pause_is_over() -> None:
    restarts, started = Restarts(budget=9), list[str]()
    restarts.started("a", 0.0)
    for _ in range(3):
        restarts.allow("a", 10.0, partial(started.append, "a"))
    restarts.run_due(10.9)
    assert (started, restarts.waiting()) == (["a"], {"a"})
    restarts.run_due(11.0)
    assert started == ["a", "a"]
    restarts.run_due(12.0)
    assert (started, restarts.waiting()) == (["a"] * 3, set())


def test_who_lived_long_is_forgiven() -> None:
    restarts = Restarts(budget=1)
    restarts.started("a", 0.0)
    assert restarts.allow("a", 1.0, nothing) is not None
    restarts.started("a", 1.0)
    assert restarts.allow("a", FORGIVEN_AFTER_S, nothing) is None
    assert restarts.allow("a", FORGIVEN_AFTER_S + 1.0, nothing) == "started again (restart 1 of 1)"


def test_no_pause_is_longer_than_the_longest() -> None:
    restarts = Restarts(budget=50)
    restarts.started("a", 0.0)
    said = [restarts.allow("a", 1.0, nothing) for _ in range(20)]
    assert f"in {LONGEST_PAUSE_S:g} s" in (said[-1] or "")


def test_without_a_budget_nothing_is_started() -> None:
    assert Restarts(budget=0).allow("a", 1.0, nothing) is None


def test_who_is_not_wanted_any_more_is_not_started() -> None:
    restarts, lives = Restarts(budget=3), []
    for name in ("a", "b"):
        restarts.started(name, 0.0)
        restarts.allow(name, 1.0, lambda name=name: lives.append(name))  # type: ignore[misc]
    restarts.cancel("a")
    assert restarts.waiting() == {"b"}
    restarts.run_due(1.0)
    assert lives == ["b"]
