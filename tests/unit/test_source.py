"""learner/source.py: one delivery ahead, errors in the training thread, and an end whenever it is asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import TableClosedError
from core.types import Columns, UnrollHeader
from learner.source import Delivery, Source, timed_next, to_device
from tests.services.serving import wait_until

CPU = torch.device("cpu")
DEADLINE_S = 10.0


class Fetch:
    """Gives what the test puts in; an exception is raised, None is the end."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.calls = 0
        self.priorities: list[tuple[Any, Any]] = []

    def set_priorities(self, keys: Any, priorities: Any) -> None:
        self.priorities.append((keys, priorities))

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        self.calls += 1
        item = self.items.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return None
        return {"n": np.full((2, 2), item)}, Delivery(None, [UnrollHeader(0, item, 0, 4)])


@pytest.fixture
def fetch() -> Fetch:
    return Fetch()


@pytest.fixture
def source(fetch: Fetch) -> Iterator[Source]:
    source = Source(fetch, CPU)
    yield source
    fetch.items.put(None)
    source.close()
    assert not source._thread.is_alive()


def number(source: Source) -> int:
    delivery = source.next(DEADLINE_S)
    assert delivery is not None
    assert delivery.batch is not None
    return int(delivery.batch["n"][0, 0])


def test_deliveries_come_in_order_as_tensors_of_the_same_memory(fetch: Fetch, source: Source) -> None:
    for n in range(5):
        fetch.items.put(n)
    assert [number(source) for _ in range(5)] == list(range(5))
    column = np.ones((2, 2))
    assert to_device({"x": column}, CPU)["x"].data_ptr() == column.ctypes.data
    column.flags.writeable = False
    assert to_device({"x": column}, CPU)["x"].data_ptr() != column.ctypes.data


def test_it_works_ahead_by_one_and_no_more(fetch: Fetch, source: Source) -> None:
    for n in range(9):
        fetch.items.put(n)
    wait_until(lambda: source._ready.qsize() == 1, "the first is ready")
    assert fetch.calls == 1
    for n in range(3):
        assert number(source) == n
        wait_until(lambda: source._ready.qsize() == 1, "the next is ready")
        assert fetch.calls == n + 2


def test_nothing_comes_within_the_timeout(source: Source) -> None:
    delivery, waited_s = timed_next(source, 0.01)
    assert delivery is None
    assert waited_s >= 0.01


def test_priorities_are_handed_to_the_fetch(fetch: Fetch, source: Source) -> None:
    keys, priorities = np.array([1]), np.array([0.5])
    source.set_priorities(keys, priorities)
    assert fetch.priorities == [(keys, priorities)]


def test_wake_ends_a_wait_and_loses_nothing(fetch: Fetch, source: Source) -> None:
    source.wake()
    assert source.next(DEADLINE_S) is None
    fetch.items.put(1)
    assert number(source) == 1


def test_what_the_fetch_raises_is_raised_by_next(fetch: Fetch, source: Source) -> None:
    fetch.items.put(1)
    fetch.items.put(TableClosedError("gone"))
    assert number(source) == 1
    with pytest.raises(TableClosedError, match="gone"):
        source.next(DEADLINE_S)
    assert source.next(0.01) is None


def test_the_end_of_the_fetch_is_the_end(fetch: Fetch, source: Source) -> None:
    fetch.items.put(None)
    source._thread.join(DEADLINE_S)
    assert source.next(0.01) is None


def test_close_ends_a_thread_that_waits_for_room(fetch: Fetch) -> None:
    source = Source(fetch, CPU)
    fetch.items.put(1)
    wait_until(lambda: source._ready.qsize() == 1, "one is ready")
    source.close()
    assert not source._thread.is_alive()
    assert fetch.calls == 1


def test_an_error_after_the_close_is_nobodys(fetch: Fetch) -> None:
    source = Source(fetch, CPU)
    wait_until(lambda: fetch.calls == 1, "it fetches")
    closing = threading.Thread(target=source.close)
    closing.start()
    wait_until(lambda: source._closed, "it is being closed")
    fetch.items.put(RuntimeError("the loop is closed"))
    closing.join(DEADLINE_S)
    assert not source._thread.is_alive()
    assert source._ready.qsize() == 0
