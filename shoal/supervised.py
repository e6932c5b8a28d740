"""A child process that never outlives the launcher that started it.

The launcher holds the write end of the child's standard input and never writes. However the launcher dies, `kill -9`
included, the kernel closes that end, the child reads end of file and ends itself: the learner with its checkpoint
written, the others at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time

EXIT_ORPHANED = 86
"""What a child returns when its launcher is gone."""


def end_with_parent(descriptor: int = 0, *, grace_s: float = 0.0) -> None:
    """From now on, end this process when `descriptor` (standard input) reaches its end. Called once, by the cli.

    With `grace_s` it gets SIGTERM first, and that long to end by itself.
    """

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError:
            pass
        if grace_s:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace_s)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=wait, name="supervised", daemon=True).start()
