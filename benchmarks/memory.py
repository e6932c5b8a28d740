"""Peak resident memory of a run's processes, from /proc: Linux only."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
EVERY_S = 0.2
ROLES = ("learner", "actor", "replay")


class Watcher:
    """Looks at all descendants of a process, until `stop`. Without /proc it sees none."""

    def __init__(self, root: int) -> None:
        self._root, self._over, self._peaks = root, threading.Event(), dict[str, float]()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> Mapping[str, float]:
        """Role -> the peak of its largest process in MB (10^6 bytes)."""
        self._over.set()
        self._thread.join()
        return dict(self._peaks)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            for pid in descendants(self._root):
                role, peak = role_of(pid), peak_mb(pid)
                if role is not None and peak is not None:
                    self._peaks[role] = max(peak, self._peaks.get(role, 0.0))


def descendants(root: int) -> Iterator[int]:
    """Children, their children, ..."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        parent = _status(int(folder.name)).get("PPid")
        if parent is not None:
            children.setdefault(int(parent), []).append(int(folder.name))
    left = [root]
    while left:
        found = children.get(left.pop(), [])
        yield from found
        left += found


def role_of(pid: int) -> str | None:
    """Which of the three programs it is: its command is `python -m shoal ROLE ...`."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    after = words[words.index("shoal") + 1] if "shoal" in words[:-1] else ""
    return after if after in ROLES else None


def peak_mb(pid: int) -> float | None:
    """VmHWM, the most that was ever resident, in MB (10^6 bytes). None where it is gone."""
    kibibytes = _status(pid).get("VmHWM")
    return None if kibibytes is None else int(kibibytes.split()[0]) * 1024 / 1e6


def _status(pid: int) -> Mapping[str, str]:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
