"""replay_server/main.py: what the operating system refuses is said, and tried again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from replay_server.main import _Repeating


def test_a_full_disk_is_said_once_and_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Exception | None] = [
        OSError(28, "No space left on device"),
        OSError(28, "No space left on device"),
        None,
        OSError(24, "Too many open files"),
    ]
    done = asyncio.Event()

    async def work() -> None:
        outcome = outcomes.pop(0)
        if not outcomes:
            done.set()
        if outcome is not None:
            raise outcome

    async def body() -> None:
        task = asyncio.create_task(_Repeating("there is no newer manifest", work, 0.0).run())
        async with asyncio.timeout(10):
            await done.wait()
        await asyncio.sleep(0)
        task.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert [record.getMessage() for record in caplog.records] == [
        "there is no newer manifest: [Errno 28] No space left on device; it is tried again every 0 s",
        "there is no newer manifest: [Errno 24] Too many open files; it is tried again every 0 s",
    ]


def test_a_defect_ends_it() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(_Repeating("x", work, 0.0).run())
