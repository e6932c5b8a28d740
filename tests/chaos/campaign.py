"""One run under fire: which processes there are, what is done to them and when, all from one seed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shoal.data_place import own_folder
from shoal.processes import HOME
from tests.chaos.far import FarActor
from tests.e2e.runs import pids

LONGEST_STOP_S, LONGEST_PARTITION_S, LONGEST_PAUSE_S = 3.0, 5.0, 6.0
LONGEST_S = 900.0
ALL = ("train", "learner", "actor", "replay")


@dataclass(frozen=True)
class Campaign:
    """A run, and what may happen to it. `exact`: it must end with the weights of a run that nothing happens to.

    `faults` are role names to kill, "all" (then the run is started again), "stop" (SIGSTOP, then SIGCONT), and "cut"
    and "partition" of the network between the learner and an actor more, behind a proxy, which these two bring.
    """

    name: str
    flags: Sequence[str]
    faults: Sequence[str]
    exact: bool
    threshold: float | None = None

    @property
    def far(self) -> bool:
        """Whether there is an actor behind a proxy."""
        return bool({"cut", "partition"} & {*self.faults})


@dataclass
class Story:
    """What was done to a run, when, and how it ended."""

    done: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    code: int | None = None
    said: str = ""
    took_s: float = 0.0


class Fire:
    """Plays one campaign in `folder`, which is the working directory of all its processes."""

    def __init__(self, campaign: Campaign, folder: Path, seed: int, faults: int) -> None:
        self._campaign, self._folder, self._left = campaign, folder, faults
        self._rng = np.random.default_rng(seed)
        self._log = folder / "launcher.log"
        self.story = Story()
        self._far = FarActor(folder) if campaign.far else None
        (folder / "tmp").mkdir(parents=True)

    def play(self) -> Story:
        """Start the run, do what the seed says, let it finish."""
        started_s = time.monotonic()
        process = self._start()
        while self._left and time.monotonic() - started_s < LONGEST_S:
            if not self._pause(process, float(self._rng.uniform(0.2, LONGEST_PAUSE_S))):
                break
            what = str(self._rng.choice(self._campaign.faults))
            if self._far is not None:
                self._far.see_to_it()
            if not self._do(what, time.monotonic() - started_s):
                continue
            self._left -= 1
            if what == "all":
                process.wait(30.0)
                self._wait_until_gone()
                process = self._start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.story.code = process.wait(max(30.0, LONGEST_S - (time.monotonic() - started_s)))
        if self.story.code is None:
            process.kill()
            process.wait()
        if self._far is not None:
            self._far.close()
        self.story.took_s = time.monotonic() - started_s
        self.story.said = self._log.read_text(errors="replace")
        return self.story

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "shoal", "train", *self._campaign.flags, "--resume", "auto"]
        if isinstance(own_folder(), str):  # no room in memory for tables that outlive a kill
            command += ["--data-dir", str(self._folder / "tables")]
        environment = {**os.environ, "PYTHONPATH": str(HOME), "TMPDIR": str(self._folder / "tmp")}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--run-dir", str(self._folder / "run"), "--quiet"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def _pause(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """False where the run ended meanwhile."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is None

    def _do(self, what: str, at_s: float) -> bool:
        """Whether there was anything to do it to."""
        if what in ("cut", "partition"):
            if self._far is None or not self._far.joined:
                return False
            self._far.hurt(what, float(self._rng.uniform(0.2, LONGEST_PARTITION_S)))
            self._tell(at_s, "cut the network" if what == "cut" else "partitioned the network")
            return True
        alive = pids(self._folder)
        roles = [role for role in ALL if role in alive.values()] if what == "stop" else [what]
        role = str(self._rng.choice(roles)) if roles else what
        victims = sorted(pid for pid, is_ in alive.items() if is_ == role or what == "all")
        if not victims or role == "train":
            return False
        if what != "all":
            victims = [int(self._rng.choice(victims))]
        number = signal.SIGSTOP if what == "stop" else signal.SIGKILL
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        said = f"stopped {role}" if what == "stop" else f"killed {what}"
        if what == "stop":
            stopped_s = float(self._rng.uniform(0.2, LONGEST_STOP_S))
            select.select([], [], [], stopped_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[0], signal.SIGCONT)
        self._tell(at_s, said)
        return True

    def _tell(self, at_s: float, said: str) -> None:
        self.story.counts[said] += 1
        self.story.done.append(f"{at_s:7.2f} s: {said}")

    def _wait_until_gone(self) -> None:
        deadline_s = time.monotonic() + 10.0
        while pids(self._folder) and time.monotonic() < deadline_s:
            select.select([], [], [], 0.02)
