"""The Ray actor that runs one `shoal` process on its node: a learner, a replay server or an actor.

Ray calls `run` on one thread and `send` on another. Where Ray starts it again on another node it has no process; the
manager notices and calls `run` again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.processes import Child, Children

LOOK_EVERY_S = 60.0


class Supervisor:
    """Its process ends with it: by standard input, as with any launcher of Shoal's."""

    def __init__(self, cwd: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        if os.path.isdir(cwd):
            os.chdir(cwd)  # modules of the user's are found as with a run on one machine
        self._children = Children()
        self._child: Child | None = None

    def ready(self) -> bool:
        """Answers once Ray has found a place for it."""
        return True

    def host(self) -> str:
        """The address of the node that it is on now."""
        import ray

        return str(ray.util.get_node_ip_address())

    def run(self, name: str, arguments: Sequence[str], log: str) -> dict[str, Any]:
        """Start `shoal ARGUMENTS`, unless that runs already, and wait for its end: exit code, last words, log."""
        if self._child is None or self._child.code is not None:
            self._child = self._children.start(name, arguments, local_log(Path(log)))
        while self._child in self._children.alive:
            self._children.wait(LOOK_EVERY_S)
        return {"code": self._child.code, "words": self._child.last_words(), "log": str(self._child.log)}

    def send(self, number: int) -> None:
        """Send the process a signal."""
        if self._child is not None:
            self._child.send(number)


def local_log(log: Path) -> Path:
    """The log itself where this node has the run directory, else a file of that name in a folder of this node's."""
    if log.parent.is_dir():
        return log
    return Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}-logs" / log.parent.parent.name / log.name
