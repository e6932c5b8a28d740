"""learner/background.py: calls come back with results, what goes wrong on the loop is kept, close ends everything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from learner.background import LoopThread

DEADLINE_S = 10.0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


def test_a_call_waits_for_its_result(loop: LoopThread) -> None:
    async def answer() -> int:
        return 42

    assert loop.call(answer(), DEADLINE_S) == 42


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_posted_function_raises_is_kept_for_the_training_thread(loop: LoopThread) -> None:
    async def nothing() -> None:
        return None

    def fails() -> None:
        raise MemoryError("no room for a larger cohort")

    loop.loop.set_exception_handler(lambda loop, context: None)
    loop.post(fails)
    loop.call(nothing(), DEADLINE_S)
    assert isinstance(loop.error, MemoryError)


def test_a_task_that_still_waits_is_cancelled_by_close() -> None:
    loop, ended = LoopThread(), []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        return task

    loop.call(start(), DEADLINE_S)
    loop.close()
    assert ended == [True]
