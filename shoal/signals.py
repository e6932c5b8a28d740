"""Ctrl-C, SIGTERM and SIGHUP, handed on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Hand Ctrl-C, SIGTERM and SIGHUP to `handle`. Only the main thread may; in another one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
