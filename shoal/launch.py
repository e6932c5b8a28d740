"""The local launcher: one learner, its actors and where needed a replay server, each a process of this machine.

It imports neither torch nor gymnasium, so the children start at once. One thread starts, watches and ends them all.
"""

from __future__ import annotations

import contextlib
import math
import signal
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

from core.config import Config
from core.errors import ConfigError, ShoalError, TransportError, all_errors
from shoal.data_place import sweep
from shoal.live import View, plural
from shoal.processes import Child, Children
from shoal.progress import Progress, Tail
from shoal.replay_child import ReplayChild
from shoal.run_dir import RunDir
from shoal.sockets import socket_folder

TICK_S = 0.1
CHECKPOINT_S = 2.0
"""After Ctrl-C or SIGTERM, how long the learner has to write its checkpoint and go."""
CHECKPOINT_AFTER_FAILURE_S = 30.0
GOODBYE_S = 0.5
"""How long the others have once the learner is gone ..."""
MANIFEST_S = 10.0
"""... or, where the replay server's tables are kept, it needs for its last manifest."""
_IN_MEMORY = "Its tables were in its memory and are gone; with --data-dir DIR it would be started again with them."


class Launch:
    """One run of a configuration. `run` returns when it is over; everything is gone then."""

    def __init__(
        self, config: Config, run: RunDir, view: View, *, resume: bool, children: Children | None = None
    ) -> None:
        self._config, self._run, self._view, self._resume = config, run, view, resume
        self._children = children or Children()
        self._progress = Progress(config.algorithm, config.env, config.env_steps, config.target_return)
        self._metrics = Tail(run.metrics)
        self._old_records = 0
        self._early_notes: list[str] = []
        self._restarts: Counter[str] = Counter()
        self._actors: dict[str, Child] = {}
        self._failure: ShoalError | None = None
        self._signal: int | None = None
        self._interrupted = False
        self._kill_at_s = math.inf

    def run(self) -> None:
        """Train until the budget is used up.

        Raises the learner's own error where it fails, KeyboardInterrupt after Ctrl-C and SystemExit after SIGTERM.
        """
        sweep()
        with socket_folder() as folder, _signals(self._on_signal), contextlib.ExitStack() as stack:
            self._folder = folder
            self._replay = ReplayChild(self._config, self._children, self._run, folder / "replay.sock", stack)
            self._take_progress()
            self._old_records = self._progress.records
            try:
                self._learner = self._start_learner()
                for slot in range(self._config.actors):
                    self._start_actor(slot)
                while self._learner in self._children.alive:
                    self._tick()
                self._say_goodbye()
            finally:
                self._children.end_all(MANIFEST_S if self._config.replay_data_dir else GOODBYE_S)
                self._take_progress()
                self._view.update(self._progress)
                self._view.close()
        self._raise_ending()

    @property
    def _stopping(self) -> bool:
        return self._kill_at_s < math.inf or self._learner.code is not None

    def _start_learner(self) -> Child:
        arguments = ["learner", "--config", str(self._run.config), "--run-dir", str(self._run.path)]
        arguments += ["--socket", str(self._folder / "learner.sock"), "--supervised"]
        if self._config.replay == "process":
            arguments += ["--replay-address", f"unix:{self._folder / 'replay.sock'}"]
        if self._resume:
            arguments.append("--resume")
        return self._children.start("learner", arguments, self._run.logs / "learner.log")

    def _start_actor(self, slot: int) -> None:
        name = f"actor-{slot}"
        arguments = ["actor", "--learner", f"unix:{self._folder / 'learner.sock'}", "--slot", str(slot), "--supervised"]
        self._actors[name] = self._children.start(name, arguments, self._run.logs / f"{name}.log")

    def _tick(self) -> None:
        """Sleep until something happens, or a tenth of a second, and act on it."""
        for child in self._children.wait(TICK_S):
            if child is self._replay.child:
                self._replay_ended(child)
            elif child is not self._learner:
                self._actor_ended(child)
        if self._replay.child is None and self._run.needs_replay.exists():
            self._replay.start()
        if self._signal is not None and not self._interrupted:
            self._interrupted = True
            self._stop_learner(CHECKPOINT_S)
        if time.monotonic() >= self._kill_at_s:
            self._learner.send(signal.SIGKILL)
        self._take_progress()
        self._view.update(self._progress)

    def _take_progress(self) -> None:
        self._progress.take(self._metrics.read())
        while self._early_notes and self._learner_trained:
            self._view.note(self._early_notes.pop(0))

    @property
    def _learner_trained(self) -> bool:
        return self._progress.records > self._old_records

    def _note(self, child: Child, text: str) -> None:
        """Show it. That an actor has lost a learner which has yet to train is news only if the learner does live."""
        if child.code == TransportError.exit_code and not self._learner_trained:
            self._early_notes.append(text)
        else:
            self._view.note(text)

    def _on_signal(self, number: int) -> None:
        self._signal = self._signal or number
        self._children.wake()

    def _stop_learner(self, grace_s: float) -> None:
        """Ask it for a checkpoint and an orderly end."""
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + grace_s)
        self._learner.send(signal.SIGTERM)

    def _actor_ended(self, child: Child) -> None:
        if child.code == 0 or self._kill_at_s < math.inf:
            return
        budget, used = self._config.faults.restarts, self._restarts[child.name]
        report = _report(child)
        if self._stopping:
            self._note(child, report)
            return
        if used < budget and child.code != ConfigError.exit_code:
            self._restarts[child.name] += 1
            self._note(child, f"{report}\nIt is started again (restart {used + 1} of {budget}).")
            self._start_actor(int(child.name.removeprefix("actor-")))
            return
        left = [actor for actor in self._actors.values() if actor in self._children.alive]
        if left:
            self._note(child, f"{report}\nIt is not started again; the run goes on with {plural(len(left), 'actor')}.")
        elif child.code == ConfigError.exit_code:
            self._fail(_error_of(child))
        else:
            spent = ", and its restarts are used up" if used else ""
            self._fail(_error(child.code or 0, f"{report}\nNo actor is left{spent}."))

    def _replay_ended(self, child: Child) -> None:
        budget, used = self._config.faults.restarts, self._restarts[child.name]
        if self._stopping:
            return
        if child.code == ConfigError.exit_code and not used:
            self._fail(_error_of(child))
        elif self._replay.survives and used < budget:
            self._restarts[child.name] += 1
            self._note(
                child, f"{_report(child)}\nIt is started again with its tables (restart {used + 1} of {budget})."
            )
            self._replay.start()
        else:
            spent = f"Its restarts are used up (faults.restarts {budget})." if self._replay.survives else _IN_MEMORY
            self._fail(_error(child.code or 1, f"{_report(child)}\n{spent}"))

    def _fail(self, error: ShoalError) -> None:
        self._failure = error
        self._stop_learner(CHECKPOINT_AFTER_FAILURE_S)

    def _say_goodbye(self) -> None:
        """The learner told the actors to finish: let them."""
        if self._learner.code == 0:
            self._children.wait_for([c for c in self._children.alive if c is not self._replay.child], GOODBYE_S)

    def _raise_ending(self) -> None:
        error = (
            _error_of(self._learner) if self._learner.code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM) else None
        )
        if self._failure is not None:  # actors that lost the learner say less than the learner itself
            raise error if error is not None and isinstance(self._failure, TransportError) else self._failure
        if self._signal is None:
            if error is not None:
                raise error
            return
        if error is not None:
            self._view.note(str(error))
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._signal)


def _report(child: Child) -> str:
    """What happened to a process, with its last words."""
    return f"{child.name} {child.ending()}:\n{textwrap.indent(child.last_words(), '  ')}\n  (log: {child.log})"


def _error_of(child: Child) -> ShoalError:
    """The error that ended a process: its own message where it gave one, else its last words. It has the exit code."""
    own = (child.code or 0) > 1 and child.code in _kinds()
    return _error(child.code or 0, child.last_words() if own else _report(child))


def _kinds() -> dict[int, type[ShoalError]]:
    return {kind.exit_code: kind for kind in reversed(list(all_errors()))}


def _error(code: int, text: str) -> ShoalError:
    """The error that a process ends with when it has this exit code; negative for a signal."""
    if code > 1 and code in _kinds():
        return _kinds()[code](text)
    error = ShoalError(text)
    error.exit_code = code if code > 0 else 128 - code
    return error


@contextlib.contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
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
