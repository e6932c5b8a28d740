"""The launcher's processes on a Ray cluster: each is run by a supervisor, a Ray actor. Used from the manager's thread.

Learner and replay server are on the manager's node, in places that they keep. Actors are spread over the cluster; one
whose node or supervisor is lost is started on another node without the launcher's knowing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ShoalError
from shoal.on_ray.cluster import Home, on_node
from shoal.on_ray.supervisor import Supervisor
from shoal.processes import Process, page_in, port_in

LEARNER = "{learner}"
"""In an actor's arguments: the learner's address, as soon as it is known."""
TICK_S = 0.1
AGAIN_S = 0.5
RESERVE_TIMEOUT_S = 60.0
KILLED_S = 1.0
THREADS = 4


@dataclass(eq=False)
class RayProcess:
    """One life of one process. `log` is on its node; `supervisor` is the Ray actor that runs it."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    log_start: int
    supervisor: Any
    keeps_place: bool
    code: int | None = None
    words: str = ""
    asked: int | None = None
    due_s: float = 0.0

    def last_words(self) -> str:
        """Its error message or traceback, else its last log lines."""
        return self.words

    def port(self) -> int | None:
        """Of a service on the manager's node."""
        return port_in(self.log, self.log_start) if self.log.exists() else None

    def page(self) -> str | None:
        """Of the learner."""
        return page_in(self.log, self.log_start) if self.log.exists() else None

    @property
    def pid(self) -> int | None:
        """It may be on any machine."""
        return None

    def send(self, number: int) -> None:
        """An actor has nothing to do before it ends, so it goes with its supervisor, which frees its place."""
        if self.code is not None:
            return
        self.asked = number
        if self.keeps_place:
            self.supervisor.send.remote(number)
        else:
            _kill(self.supervisor)


class RayProcesses:
    """`shoal.processes.Processes` on a cluster.

    `note` is told which actors were lost with their nodes; `placed` the name, arguments and node's address of each
    process that was started or moved, and None for the address of one that ended.
    """

    def __init__(
        self,
        home: Home,
        cpus: Mapping[str, int],
        cwd: str,
        environment: Mapping[str, str],
        note: Callable[[str], None],
        placed: Callable[[str, Sequence[str], str | None], None],
    ) -> None:
        self._home, self._cpus, self._note, self._placed = home, cpus, note, placed
        self._for_all = (cwd, dict(environment))
        self._kept: dict[str, Any] = {}
        self._alive: list[RayProcess] = []
        self._due: list[RayProcess] = []
        self._running: dict[Any, RayProcess] = {}
        self._asked: dict[Any, RayProcess] = {}
        self._learner: RayProcess | None = None
        self._address: str | None = None
        self._woken = threading.Event()

    def reserve(self) -> None:
        """Take the places on the manager's node. Raises ShoalError where it has no room."""
        import ray

        for name, cpus in self._cpus.items():
            gpus = self._home.gpus if name == "learner" else 0
            self._kept[name] = self._make(name, on_node(self._home.node), num_cpus=cpus, num_gpus=gpus)
        try:
            ray.get([kept.ready.remote() for kept in self._kept.values()], timeout=RESERVE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            wanted = ", ".join(f"{name} {cpus}" for name, cpus in self._cpus.items())
            raise ShoalError(
                f"the Ray node {self._home.host} gave no place for {wanted} (CPUs) and {self._home.gpus} GPUs within "
                f"{RESERVE_TIMEOUT_S:g} s: {error}"
            ) from None

    @property
    def alive(self) -> tuple[RayProcess, ...]:
        """Those whose end was not yet given out by `wait`."""
        return tuple(self._alive)

    def start(self, name: str, arguments: Sequence[str], log: Path) -> RayProcess:
        """Have a supervisor start `shoal ARGUMENTS`."""
        supervisor = self._kept.get(name) or self._make(name, "SPREAD", num_cpus=1)
        log_start = log.stat().st_size if log.exists() else 0
        process = RayProcess(name, tuple(arguments), log, log_start, supervisor, name in self._kept)
        if name == "learner":
            self._learner = process
        self._alive.append(process)
        self._due.append(process)
        self._dispatch()
        return process

    def wait(self, timeout_s: float) -> list[RayProcess]:
        """Those that ended since the last call; waits up to `timeout_s`, and no longer than a tenth of a second."""
        import ray

        self._dispatch()
        timeout_s = max(0.0, min(timeout_s, TICK_S))
        if self._running:
            ray.wait(list(self._running), timeout=timeout_s)
        else:
            self._woken.wait(timeout_s)
        self._woken.clear()
        done, _ = (
            ray.wait(list(self._running), num_returns=len(self._running), timeout=0) if self._running else ([], [])
        )
        for ref in done:
            self._take(self._running.pop(ref), ref)
        self._tell_places()
        for process in [process for process in self._due if process.asked is not None]:
            self._due.remove(process)
            process.code = -(process.asked or 0)
        ended = [process for process in self._alive if process.code is not None]
        for process in ended:
            self._placed(process.name, process.arguments, None)
        self._alive = [process for process in self._alive if process.code is None]
        return ended

    def wake(self) -> None:
        """A `wait` returns within a tenth of a second anyway."""
        self._woken.set()

    def wait_for(self, some: Iterable[Process], timeout_s: float) -> bool:
        """Wait until all of `some` ended; whether they did in time."""
        deadline_s, some = time.monotonic() + timeout_s, list(some)
        while any(process in self._alive for process in some):
            if time.monotonic() >= deadline_s:
                return False
            self.wait(TICK_S)
        return True

    def end_all(self, grace_s: float) -> list[RayProcess]:
        """Ask all to end, kill those still there after `grace_s`, and give all places back."""
        asked = self.alive
        for process in asked:
            process.send(signal.SIGTERM)
        self.wait_for(asked, grace_s)
        stragglers = list(self._alive)
        for process in stragglers:
            process.send(signal.SIGKILL)
        self.wait_for(stragglers, KILLED_S)
        for supervisor in self._kept.values():
            _kill(supervisor)
        return stragglers

    def _make(self, name: str, where: Any, **resources: float) -> Any:
        import ray

        kind = ray.remote(max_restarts=-1, max_concurrency=THREADS, **resources)(Supervisor)
        return kind.options(scheduling_strategy=where, name=None).remote(*self._for_all)

    def _dispatch(self) -> None:
        """Hand those to their supervisors that are due, actors once the learner's address is known."""
        if self._address is None and self._learner is not None:
            port = self._learner.port()
            self._address = f"{self._home.host}:{port}" if port else None
        for process in [process for process in self._due if process.due_s <= time.monotonic()]:
            if LEARNER in process.arguments and self._address is None:
                continue
            arguments = [self._address if word == LEARNER else word for word in process.arguments]
            self._due.remove(process)
            process.due_s = time.monotonic() + AGAIN_S
            self._running[process.supervisor.run.remote(process.name, arguments, str(process.log))] = process
            self._asked[process.supervisor.host.remote()] = process

    def _tell_places(self) -> None:
        import ray

        answered = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        for ref in answered:
            process = self._asked.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):  # lost before it answered: it is asked again
                if process.code is None:
                    self._placed(process.name, process.arguments, ray.get(ref))

    def _take(self, process: RayProcess, ref: Any) -> None:
        """What came of a `run`: the end of the process, or of its supervisor."""
        import ray

        try:
            result = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._lost(process, error)
            return
        process.code, process.words, process.log = result["code"], result["words"], Path(result["log"])
        if not process.keeps_place:
            _kill(process.supervisor)

    def _lost(self, process: RayProcess, error: Exception) -> None:
        """An actor is started again where Ray finds a place; of the others the launcher must know."""
        import ray

        if process.asked is not None:
            process.code = -process.asked
        elif isinstance(error, ray.exceptions.RayTaskError):  # raised by `run` itself: the supervisor lives on
            process.code, process.words = ShoalError.exit_code, f"its supervisor could not run it: {error}"
            if not process.keeps_place:
                _kill(process.supervisor)
        elif process.keeps_place:
            process.code, process.words = -signal.SIGKILL, f"its Ray worker is gone: {error}"
        elif isinstance(error, ray.exceptions.ActorUnavailableError):
            if time.monotonic() >= process.due_s + AGAIN_S:  # not only still on its way to another node
                self._note(
                    f"{process.name} was lost with its Ray worker or node: it is started again where there is room."
                )
            process.due_s = time.monotonic() + AGAIN_S
            self._due.append(process)
        else:
            process.code, process.words = ShoalError.exit_code, f"its Ray worker failed: {error}"
            _kill(process.supervisor)


def _kill(supervisor: Any) -> None:
    import ray

    ray.kill(supervisor, no_restart=True)
