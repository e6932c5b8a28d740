"""The local launcher: one learner, its actors and where needed a replay server, each a process of this machine.

It imports neither torch nor gymnasium, so the children start at once. One thread starts, watches and ends them all.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from core import checkpoint
from core.config import Config
from core.errors import ConfigError, PeerLostError, ShoalError, TransportError
from shoal.data_place import sweep
from shoal.endings import error, error_of, report
from shoal.live import View, plural
from shoal.processes import Child, Children
from shoal.progress import Progress, Tail
from shoal.replay_child import ReplayChild
from shoal.restarts import Restarts
from shoal.run_dir import RunDir
from shoal.sockets import socket_folder

TICK_S = 0.1
CHECKPOINT_S, PREEMPTED_S = 2.0, 8.0
"""After Ctrl-C, and after SIGTERM, how long the learner has to write its checkpoint and go."""
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
        self._restarts = Restarts(config.faults.restarts)
        self._actors: dict[str, Child] = {}
        self._failure: ShoalError | None = None
        self._signal: int | None = None
        self._interrupted = False
        self._kill_at_s = math.inf
        self._over = False
        self._learner_port: int | None = None

    def run(self) -> None:
        """Train until the budget is used up.

        Raises the learner's own error where it fails, KeyboardInterrupt after Ctrl-C and SystemExit after SIGTERM.
        """
        with socket_folder() as folder, _signals(self._on_signal), contextlib.ExitStack() as stack:
            self._folder = folder
            replay_socket = folder / "replay.sock"
            self._replay = ReplayChild(self._config, self._children, self._run, replay_socket, stack, self._resume)
            sweep()
            self._take_progress()
            self._old_records = self._progress.records
            try:
                self._start_learner()
                for slot in range(self._config.actors):
                    self._start_actor(slot)
                while not self._over:
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
        return self._kill_at_s < math.inf or self._over

    def _start_learner(self) -> None:
        arguments = ["learner", "--config", str(self._run.config), "--run-dir", str(self._run.path)]
        arguments += ["--socket", str(self._folder / "learner.sock"), "--supervised"]
        if self._config.replay == "process":
            arguments += ["--replay-address", f"unix:{self._folder / 'replay.sock'}"]
        if self._learner_port:  # actors that came through it come back there
            arguments += ["--listen", f"{self._config.network.listen.rpartition(':')[0]}:{self._learner_port}"]
        if self._resume:
            arguments.append("--resume")
        self._learner = self._start(arguments)

    def _start_actor(self, slot: int) -> None:
        arguments = ["actor", "--learner", f"unix:{self._folder / 'learner.sock'}", "--slot", str(slot), "--supervised"]
        self._actors[f"actor-{slot}"] = self._start(arguments, f"actor-{slot}")

    def _start(self, arguments: list[str], name: str | None = None) -> Child:
        name = name or arguments[0]
        self._restarts.started(name, time.monotonic())
        return self._children.start(name, arguments, self._run.logs / f"{name}.log")

    def _tick(self) -> None:
        """Sleep until something happens, or a tenth of a second, and act on it."""
        for child in self._children.wait(TICK_S):
            if child is self._replay.child:
                self._replay_ended(child)
            elif child is self._learner:
                self._learner_ended(child)
            else:
                self._actor_ended(child)
        if not self._stopping:
            self._restarts.run_due(time.monotonic())
        if self._replay.child is None and self._run.needs_replay.exists():
            self._start_replay()
        if self._signal is not None and not self._interrupted:
            self._interrupted = True
            self._stop_learner(CHECKPOINT_S if self._signal == signal.SIGINT else PREEMPTED_S)
        if time.monotonic() >= self._kill_at_s:
            self._learner.send(signal.SIGKILL)
        if self._kill_at_s < math.inf and self._learner not in self._children.alive:
            self._over = True  # it was to be started again
        self._take_progress()
        self._view.update(self._progress)

    def _take_progress(self) -> None:
        self._progress.take(self._metrics.read(), self._metrics.replaced)
        while self._early_notes and self._learner_trained:
            self._view.note(self._early_notes.pop(0))

    @property
    def _learner_trained(self) -> bool:
        return self._progress.records > self._old_records

    def _note(self, child: Child, text: str) -> None:
        """Show it. That an actor has lost a learner which has yet to train is news only if the learner does live."""
        if child.code in (TransportError.exit_code, PeerLostError.exit_code) and not self._learner_trained:
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

    def _learner_ended(self, child: Child) -> None:
        """Start it again where it was killed or crashed; what it refuses, or ended by itself, stays as it is."""
        self._over = True
        if self._kill_at_s < math.inf or not _may_help(child):
            return
        again = self._restarts.allow(child.name, time.monotonic(), self._start_learner)
        if again is None:
            return
        self._over = False
        self._learner_port = child.port() or self._learner_port
        self._resume = bool(checkpoint.all_in(self._run.checkpoints))
        where = "from its newest checkpoint" if self._resume else "from the beginning: there is no checkpoint yet"
        self._note(child, f"{report(child)}\nIt is {again}, {where}.")

    def _actor_ended(self, child: Child) -> None:
        if child.code == 0 or self._kill_at_s < math.inf:
            return
        what = report(child)
        if self._stopping:
            self._note(child, what)
            return
        slot = int(child.name.removeprefix("actor-"))
        again = None
        if child.code != ConfigError.exit_code:
            again = self._restarts.allow(child.name, time.monotonic(), lambda: self._start_actor(slot))
        if again is not None:
            self._note(child, f"{what}\nIt is {again}.")
            return
        left = [name for name, actor in self._actors.items() if actor in self._children.alive]
        left += [name for name in self._restarts.waiting() if name in self._actors]
        if left:
            self._note(child, f"{what}\nIt is not started again; the run goes on with {plural(len(left), 'actor')}.")
        elif child.code == ConfigError.exit_code:
            self._fail(error_of(child))
        else:
            spent = ", and its restarts are used up" if self._restarts.used(child.name) else ""
            self._fail(error(child.code or 0, f"{what}\nNo actor is left{spent}."))

    def _start_replay(self) -> None:
        self._restarts.started("replay", time.monotonic())
        self._replay.start()

    def _replay_ended(self, child: Child) -> None:
        if self._stopping:
            return
        if child.code == ConfigError.exit_code and not self._restarts.used(child.name):
            self._fail(error_of(child))
            return
        again = None
        if self._replay.survives:
            again = self._restarts.allow(child.name, time.monotonic(), self._start_replay)
        if again is not None:
            self._note(child, f"{report(child)}\nIt is {again}, with its tables.")
            return
        budget = self._config.faults.restarts
        spent = f"Its restarts are used up (faults.restarts {budget})." if self._replay.survives else _IN_MEMORY
        self._fail(error(child.code or 1, f"{report(child)}\n{spent}"))

    def _fail(self, error: ShoalError) -> None:
        self._failure = error
        self._stop_learner(CHECKPOINT_AFTER_FAILURE_S)

    def _say_goodbye(self) -> None:
        """The learner told the actors to finish: let them."""
        if self._learner.code == 0:
            self._children.wait_for([c for c in self._children.alive if c is not self._replay.child], GOODBYE_S)

    def _raise_ending(self) -> None:
        error = (
            error_of(self._learner) if self._learner.code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM) else None
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


def _may_help(child: Child) -> bool:
    """Whether a learner that ended so may do better in another life: killed, crashed, or cut off from its peers."""
    code = child.code or 0
    return code < 0 or code in (ShoalError.exit_code, TransportError.exit_code, PeerLostError.exit_code)


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
