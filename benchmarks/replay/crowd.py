"""Clients in processes of their own, which begin together once all are connected."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from threading import BrokenBarrierError
from typing import Any

from benchmarks.replay.measures import Figures, Usage

START_TIMEOUT_S, END_TIMEOUT_S = 120.0, 300.0
Job = tuple[Callable[..., Any], tuple[Any, ...]]
"""`function(ready, *arguments)`: it prepares, calls `ready()`, which returns when all have, and returns its result."""


def together(jobs: Sequence[Job], server_pid: int) -> tuple[list[Any], Figures]:
    """The jobs' results in order, and what the server took from their start to the end of the first one.

    Raises RuntimeError where a job fails; its traceback is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(len(jobs) + 1), context.Queue()
    processes = [
        context.Process(target=_work, args=(index, function, arguments, barrier, answers), daemon=True)
        for index, (function, arguments) in enumerate(jobs)
    ]
    for process in processes:
        process.start()
    try:
        barrier.wait(START_TIMEOUT_S)
        usage, figures = Usage(server_pid), Figures()
        results: dict[int, Any] = {}
        while len(results) < len(jobs):
            index, result = answers.get(timeout=END_TIMEOUT_S)
            figures = figures or usage.figures()
            if result is None:
                raise RuntimeError(f"client {index} of {len(jobs)} failed while it was measured")
            results[index] = result
        for process in processes:
            process.join(5)
        return [results[index] for index in range(len(jobs))], figures
    except BrokenBarrierError:
        raise RuntimeError(f"one of {len(jobs)} clients failed before all were connected") from None
    except queue.Empty:
        raise RuntimeError(f"{len(jobs)} clients were not done after {END_TIMEOUT_S:g} s") from None
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()


def _work(index: int, function: Callable[..., Any], arguments: tuple[Any, ...], barrier: Any, answers: Any) -> None:
    result = None
    try:
        result = function(lambda: barrier.wait(START_TIMEOUT_S), *arguments)
    finally:
        if result is None:
            barrier.abort()
        answers.put((index, result))
