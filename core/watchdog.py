"""Ends a process whose environment hangs: with a message and the stacks of all threads, instead of silence.

A thread looks at when the call to the environment began. A call into native code that keeps the interpreter's lock
would stop that thread, too; for those faulthandler's own timer, which needs no interpreter, is set ahead again and
again: when nobody does so any more, it writes the stacks and ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from core.errors import EnvironmentFailedError

LOOK_EVERY_S = 1.0
MAKING_S = 30.0
"""The least that their making may take: they may have much to load."""
LATER_S = 5.0
"""How much later than the thread faulthandler's timer acts."""


class Busy:
    """Since when the environments have been at work; infinity: they are not. `situation` says where they are."""

    def __init__(self, situation: Callable[[], str], now_s: Callable[[], float] = time.monotonic) -> None:
        self.situation, self._now_s = situation, now_s
        self.since_s = math.inf
        self.made = False

    def __enter__(self) -> None:
        self.since_s = self._now_s()

    def __exit__(self, *_: object) -> None:
        self.since_s = math.inf

    def lasted_s(self) -> float:
        """How long the call that is under way has taken; 0 where none is."""
        return max(0.0, self._now_s() - self.since_s)


@contextlib.contextmanager
def watched(busy: Busy, deadline_s: float | None) -> Iterator[None]:
    """End the process where a call to the environments takes longer than the deadline; None: there is none."""
    if deadline_s is None:
        yield
        return
    over, every_s = threading.Event(), min(LOOK_EVERY_S, deadline_s / 4)

    def allowed_s() -> float:
        return deadline_s if busy.made else max(deadline_s, MAKING_S)

    def set_timer() -> None:
        faulthandler.dump_traceback_later(allowed_s() + LATER_S, exit=True)

    def watch() -> None:
        while not over.wait(every_s):
            set_timer()
            if busy.lasted_s() > allowed_s():
                _end(busy.lasted_s(), deadline_s, busy.situation())

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    set_timer()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def _end(lasted_s: float, deadline_s: float, situation: str) -> None:
    """Not by an exception: the thread that hangs would not see it."""
    print(
        f"error: {situation} has not come back for {lasted_s:.1f} s (faults.step_deadline_s {deadline_s:g}); where it "
        "hangs is in the stacks below. Mend it, or raise the deadline where it may take so long",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EnvironmentFailedError.exit_code)
