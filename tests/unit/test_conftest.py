"""The tests' own tools: a thread's failure is the test's failure."""

from __future__ import annotations

import threading

import pytest

from tests.conftest import Threads


def test_a_thread_hands_its_exception_back() -> None:
    def fail() -> None:
        raise AssertionError("seen in a thread")

    threads = Threads()
    threads.start(fail)
    with pytest.raises(AssertionError, match="seen in a thread"):
        threads.join()


def test_a_thread_that_does_not_end_is_a_failure() -> None:
    release = threading.Event()
    threads = Threads(timeout_s=0.01)
    threads.start(release.wait, 10.0)
    with pytest.raises(TimeoutError, match="did not end"):
        threads.join()
    release.set()


def test_join_gives_results_in_the_order_of_starting(threads: Threads) -> None:
    for n in range(3):
        threads.start(lambda n=n: n * n)
    assert threads.join() == [0, 1, 4]


def test_seed_is_the_same_for_the_same_run_and_test(seed: int, request: pytest.FixtureRequest) -> None:
    again = request.getfixturevalue("seed")
    assert again == seed
    assert 0 <= seed < 2**32
