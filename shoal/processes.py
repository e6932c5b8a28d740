"""Child processes of a launcher: started, watched and ended. Never forked: every child is `python -P -m shoal ...`.

-P keeps the working directory from the front of the path: a user's core.py there must not hide ours.

One thread per child waits for its end and puts it on a queue, so that whoever supervises sleeps on that queue alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

HOME = Path(__file__).resolve().parent.parent
"""The folder that `shoal` and its sister packages are in."""
TAIL_BYTES = 16_384
_PORT = re.compile(rb"^[a-z ]+ listens on [^\n]*?:(\d+)(?:,|$)", re.M)
_PAGE = re.compile(rb"^page at (\S+)$", re.M)


class Process(Protocol):
    """One life of one process, wherever it runs."""

    @property
    def name(self) -> str:
        """What it is in the run, such as actor-3."""
        ...

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        ...

    @property
    def log(self) -> Path:
        """Where its output is."""
        ...

    def last_words(self) -> str:
        """What to show of a process that failed."""
        ...

    def port(self) -> int | None:
        """The TCP port that a service said it listens on; None where it did not come so far."""
        ...

    def page(self) -> str | None:
        """The address of the web page that a learner said it serves; None where it did not come so far."""
        ...

    @property
    def pid(self) -> int | None:
        """Of a process of this machine."""
        ...

    def send(self, number: int) -> None:
        """Send a signal, unless it ended already."""
        ...


class Processes(Protocol):
    """All processes of one launcher: `Children` on this machine, shoal/on_ray's on a cluster."""

    @property
    def alive(self) -> Sequence[Process]:
        """Those whose end was not yet given out by `wait`."""
        ...

    def start(self, name: str, arguments: Sequence[str], log: Path) -> Process:
        """Start `shoal ARGUMENTS`."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Process]:
        """Those that ended since the last call; waits up to `timeout_s` for the first, or until `wake`."""
        ...

    def wake(self) -> None:
        """Make a `wait` in progress return now."""
        ...

    def wait_for(self, some: Iterable[Process], timeout_s: float) -> bool:
        """Wait until all of `some` ended; whether they did in time."""
        ...

    def end_all(self, grace_s: float) -> Sequence[Process]:
        """Ask all to end, kill those still there after `grace_s`; returns the killed ones."""
        ...


@dataclass(frozen=True, eq=False)
class Child:
    """One life of one process. `log_start` is where its part of the log begins."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        return self.process.poll()

    def last_words(self, lines: int = 30) -> str:
        """What to show of a process that failed: its error message or traceback, else its last log lines."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, size - TAIL_BYTES))
            text = log.read().decode(errors="replace").rstrip()
        starts = [
            m.start() for m in re.finditer(r"^(error: |Traceback \(most recent call last\)|Timeout \()", text, re.M)
        ]
        if starts:
            return text[starts[0] :].removeprefix("error: ")
        return "\n".join(text.splitlines()[-lines:])

    def port(self) -> int | None:
        """The TCP port that a service said it listens on; None where it did not come so far."""
        return port_in(self.log, self.log_start)

    def page(self) -> str | None:
        """The address of the web page that a learner said it serves; None where it did not come so far."""
        return page_in(self.log, self.log_start)

    @property
    def pid(self) -> int | None:
        """It is one of this machine."""
        return self.process.pid

    def send(self, number: int) -> None:
        """Send a signal, unless it ended already."""
        if self.code is None:
            self.process.send_signal(number)


class Children:
    """All children of one launcher. Used from one thread."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-P", "-m", "shoal")) -> None:
        self._command = tuple(command)
        self._alive: list[Child] = []
        self._ended: SimpleQueue[Child | None] = SimpleQueue()

    @property
    def alive(self) -> tuple[Child, ...]:
        """Those whose end was not yet given out by `wait`."""
        return tuple(self._alive)

    def start(self, name: str, arguments: Sequence[str], log: Path) -> Child:
        """Start `shoal ARGUMENTS` with its output appended to `log`. It ends when this process does."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab", buffering=0) as out:
            with contextlib.suppress(OSError):  # the disk is full: the process is wanted all the same
                out.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(arguments)}\n".encode())
            log_start = out.tell()
            process = subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        child = Child(name, process, log, log_start)
        self._alive.append(child)
        threading.Thread(target=self._watch, args=(child,), name=f"watch-{name}", daemon=True).start()
        return child

    def wait(self, timeout_s: float) -> list[Child]:
        """Those that ended since the last call; waits up to `timeout_s` for the first, or until `wake`."""
        ended: list[Child] = []
        try:
            first = self._ended.get(timeout=max(0.0, timeout_s))
            while True:
                if first is not None:
                    ended.append(first)
                    self._alive.remove(first)
                first = self._ended.get_nowait()
        except Empty:
            return ended

    def wake(self) -> None:
        """Make a `wait` in progress return now. May be called from a signal handler."""
        self._ended.put(None)

    def wait_for(self, some: Iterable[Process], timeout_s: float) -> bool:
        """Wait until all of `some` ended; whether they did in time."""
        deadline = time.monotonic() + timeout_s
        some = list(some)
        while any(child in self._alive for child in some):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self.wait(left_s)
        return True

    def end_all(self, grace_s: float) -> list[Child]:
        """Ask all to end (SIGTERM), kill those still there after `grace_s`; returns the killed ones."""
        asked = self.alive
        for child in asked:
            child.send(signal.SIGTERM)
        self.wait_for(asked, grace_s)
        stragglers = list(self.alive)
        for child in stragglers:
            child.send(signal.SIGKILL)
        self.wait_for(stragglers, 1.0)
        return stragglers

    def _watch(self, child: Child) -> None:
        child.process.wait()
        if child.process.stdin is not None:
            child.process.stdin.close()
        self._ended.put(child)


def port_in(log: Path, start: int) -> int | None:
    """The TCP port that the service with this log said it listens on, in what it wrote from `start` on."""
    found = _said(_PORT, log, start)
    return None if found is None else int(found)


def page_in(log: Path, start: int) -> str | None:
    """The address of the web page that the learner with this log said it serves."""
    return _said(_PAGE, log, start)


def _said(pattern: re.Pattern[bytes], log: Path, start: int) -> str | None:
    with log.open("rb") as file:
        file.seek(start)
        found = pattern.search(file.read())
    return found[1].decode() if found else None


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "is still running"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints: dict[int, str] = {
        signal.SIGKILL: " (out of memory, or kill -9)",
        signal.SIGSEGV: " (a crash in native code)",
        signal.SIGBUS: " (a mapped file lost its storage: is the disk or /dev/shm full?)",
        signal.SIGILL: " (an instruction this CPU does not have)",
    }
    return f"was killed by {name}{hints.get(-code, '')}"


def _environment() -> dict[str, str]:
    """The parent's environment, with unbuffered logs and this very Shoal on the path."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if HOME.name not in ("site-packages", "dist-packages"):
        paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, str(HOME)])
    return environment
