"""The learner's event loop in a thread of its own, beside training. The only place where the two meet.

Whatever belongs to the services (tables, rounds, subscribers) is touched on this loop's thread alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
HELPERS = 2
"""Threads for what would hold the loop up. They are started as they are needed: with more of them it takes hours until
all are there, and nobody could tell that from a leak."""


class LoopThread:
    """Runs an asyncio loop until close()."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(HELPERS, "services-helper"))
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self._cancel_tasks())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    @staticmethod
    async def _cancel_tasks() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine on the loop and wait for its result. Raises what it raises, or TimeoutError."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the loop call `function(*arguments)` soon; does not wait. What it raises is kept as `error`."""
        self.loop.call_soon_threadsafe(self.guard, function, *arguments)

    def guard(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it here, on the loop, and keep what it raises."""
        try:
            function(*arguments)
        except Exception as error:
            self.fail(error)
            raise

    def fail(self, error: Exception) -> None:
        """Something went wrong on the loop that training cannot go on with; the first one stays."""
        self.error = self.error or error

    def close(self) -> None:
        """Stop the loop and join its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
