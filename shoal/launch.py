"""The launcher: one learner, its actors and where needed a replay server, each a process, of this machine by default.

It imports neither torch nor gymnasium, so the children start at once. One thread starts, watches and ends them all;
`scale` and `stop` may be called from others. On a Ray cluster the same class runs beside the learner (shoal/on_ray).
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Sequence

from core import checkpoint
from core.config import Config
from core.errors import ConfigError, PeerLostError, ShoalError, TransportError, another_life_may_help
from shoal.arguments import of_actor, of_learner
from shoal.data_place import sweep
from shoal.endings import error, error_of, report
from shoal.hung import Away, GivenUp, longest_away_s
from shoal.live import View, plural
from shoal.processes import Children, Process, Processes
from shoal.progress import Progress, Tail
from shoal.replay_child import ReplayChild
from shoal.restarts import Restarts
from shoal.run_dir import RunDir
from shoal.signals import signals
from shoal.sockets import LEARNER, REPLAY, answers, socket_folder

TICK_S = 0.1
CHECKPOINT_S, PREEMPTED_S = 2.0, 7.0
"""After Ctrl-C, and after SIGTERM, how long the learner has to write its checkpoint and go."""
CHECKPOINT_AFTER_FAILURE_S = 30.0
IN_ORDER = (0, 128 + signal.SIGTERM, -signal.SIGTERM)
"""Exit codes of a learner that is done, or was asked to stop."""
GOODBYE_S = 0.5
"""How long the others have once the learner is gone ..."""
MANIFEST_S = 10.0
"""... or, where the replay server's tables are kept, it needs for its last manifest ..."""
ALL_PREEMPTED_S = 9.0
"""... but all have to be gone so long after SIGTERM."""
_IN_MEMORY = "Its tables were in its memory and are gone; with --data-dir DIR it would be started again with them."


class Launch:
    """One run of a configuration. `run` returns when it is over; everything is gone then.

    `children` are where the processes are, other than on this machine. The learner gets `learner_arguments` too, actors
    get `actor_arguments` in place of the learner's unix socket.
    """

    def __init__(
        self,
        config: Config,
        run: RunDir,
        view: View,
        *,
        resume: bool,
        children: Processes | None = None,
        learner_arguments: Sequence[str] = (),
        actor_arguments: Sequence[str] = (),
    ) -> None:
        self._config, self._run, self._view, self._resume = config, run, view, resume
        self._children: Processes = children or Children()
        self._learner_arguments, self._actor_arguments = learner_arguments, actor_arguments
        self._progress = Progress(config.algorithm, config.env, config.env_steps, config.target_return)
        self._metrics = Tail(run.metrics)
        self._old_records = 0
        self._early_notes: list[str] = []
        self._restarts = Restarts(config.faults.restarts)
        self._given_up, self._looked = GivenUp(), 0
        self._wanted = config.actors
        self._actors: dict[str, Process] = {}
        self._failure: ShoalError | None = None
        self._signal: int | None = None
        self._interrupted = False
        self._kill_at_s = self._gone_by_s = math.inf
        self._over = False
        self._learner_port: int | None = None
        self._told_page = True  # there is no learner yet that could tell

    def run(self) -> None:
        """Train until the budget is used up.

        Raises the learner's own error where it fails, KeyboardInterrupt after Ctrl-C and SystemExit after SIGTERM.
        """
        with socket_folder() as folder, signals(self.stop), contextlib.ExitStack() as stack:
            self._folder = folder
            self._replay = ReplayChild(self._config, self._children, self._run, folder / REPLAY, stack, self._resume)
            sweep()
            self._take_progress()
            self._old_records = self._progress.records
            try:
                self._start_learner()
                self._scale()
                while not self._over:
                    self._tick()
                self._say_goodbye()
            finally:
                grace_s = MANIFEST_S if self._config.replay_data_dir else GOODBYE_S
                self._children.end_all(max(GOODBYE_S, min(grace_s, self._gone_by_s - time.monotonic())))
                self._take_progress()
                self._view.update(self._progress)
                self._view.close()
        self._raise_ending()

    @property
    def _stopping(self) -> bool:
        return self._kill_at_s < math.inf or self._over

    def _start_learner(self) -> None:
        arguments = of_learner(
            *(self._config, self._run, self._folder),
            port=self._learner_port,
            page=self._progress.page,
            resume=self._resume,
        )
        self._learner, self._born = self._start([*arguments, *self._learner_arguments]), self._progress.records
        self._told_page = self._config.network.page is None
        faults = self._config.faults
        self._away = Away(longest_away_s(faults.learner_patience_s, faults.step_deadline_s))

    def _start_actor(self, slot: int) -> None:
        place = self._actor_arguments or ["--learner", f"unix:{self._folder / LEARNER}"]
        self._actors[f"actor-{slot}"] = self._start(of_actor(self._config, slot, place), f"actor-{slot}")

    def scale(self, actors: int) -> None:
        """Have so many actors from now on. Those of the highest slots go."""
        self._wanted = actors
        self._children.wake()

    def _scale(self) -> None:
        wanted = {f"actor-{slot}": slot for slot in range(self._wanted)}
        for name in [name for name in self._actors if name not in wanted]:
            self._actors.pop(name).send(signal.SIGTERM)
            self._restarts.cancel(name)
        for name, slot in wanted.items():
            if name not in self._actors:
                self._start_actor(slot)

    def _start(self, arguments: list[str], name: str | None = None) -> Process:
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
            self._scale()
            self._look_for_hung_actors()
        if self._replay.child is None and self._run.needs_replay.exists():
            self._start_replay()
        if self._signal is not None and not self._interrupted:
            self._interrupted = True
            if self._signal != signal.SIGINT:
                self._gone_by_s = time.monotonic() + ALL_PREEMPTED_S
            self._stop_learner(CHECKPOINT_S if self._signal == signal.SIGINT else PREEMPTED_S)
        if time.monotonic() >= self._kill_at_s:
            self._learner.send(signal.SIGKILL)
        if self._kill_at_s < math.inf and self._learner not in self._children.alive:
            self._over = True  # it was to be started again
        self._take_progress()
        self._view.update(self._progress)

    def _take_progress(self) -> None:
        self._progress.take(self._metrics.read(), self._metrics.replaced)
        if not self._told_page and (page := self._learner.page()) is not None:
            self._progress.page, self._told_page = page, True
        while self._early_notes and self._learner_trained:
            self._view.note(self._early_notes.pop(0))

    @property
    def _learner_trained(self) -> bool:
        return self._progress.records > self._old_records

    def _note(self, child: Process, text: str) -> None:
        """Show it. That an actor has lost a learner which has yet to train is news only if the learner does live."""
        if child.code in (TransportError.exit_code, PeerLostError.exit_code) and not self._learner_trained:
            self._early_notes.append(text)
        else:
            self._view.note(text)

    def stop(self, number: int) -> None:
        """End the run in order, as SIGINT or SIGTERM asks for it."""
        self._signal = self._signal or number
        self._children.wake()

    def _stop_learner(self, grace_s: float) -> None:
        """Ask it for a checkpoint and an orderly end."""
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + grace_s)
        self._learner.send(signal.SIGTERM)

    def _learner_ended(self, child: Process) -> None:
        """Start it again where it was killed or crashed; what it refuses, or ended by itself, stays as it is."""
        self._over = True
        if self._kill_at_s < math.inf or not another_life_may_help(child.code or 0):
            return
        lost = child.code in (TransportError.exit_code, PeerLostError.exit_code)
        if lost and self._replay.child is not None and self._replay.survives and not answers(self._folder / REPLAY):
            self._kill_hung(self._replay.child, "the learner has given it up")
        again = self._restarts.allow(child.name, time.monotonic(), self._start_learner)
        if again is None:
            return
        self._over = False
        for name in [name for name, actor in self._actors.items() if actor.code == 0]:
            del self._actors[name]  # it was told that the run is over
        self._learner_port = child.port() or self._learner_port
        self._progress.page = child.page() or self._progress.page
        self._resume = bool(checkpoint.all_in(self._run.checkpoints))
        where = "from its newest checkpoint" if self._resume else "from the beginning: there is no checkpoint yet"
        self._note(child, f"{report(child)}\nIt is {again}, {where}.")

    def _kill_hung(self, hung: Process, why: str) -> None:
        if hung in self._children.alive:
            self._view.note(f"{hung.name} lives and does not answer; {why}. It is killed.")
            hung.send(signal.SIGKILL)

    def _gave_up(self, actor: Process) -> None:
        """Whom all actors gave up, without a word from the learner in between, and who does not answer, hangs."""
        all_did = self._given_up.by_all(actor.name, self._left(), self._progress.records)
        if not all_did or self._learner not in self._children.alive or self._progress.records == self._born:
            return
        replay = self._replay.child if self._replay.survives else None
        for peer, name in ((replay, REPLAY), (self._learner, LEARNER)):
            if peer is not None and not answers(self._folder / name):
                self._kill_hung(peer, "every actor has given it up")

    def _look_for_hung_actors(self) -> None:
        """Those that lost their seats long ago, though they live and the learner goes on."""
        seated, fresh = self._progress.seated, self._progress.records != self._looked
        self._looked = self._progress.records
        if not fresh or seated is None or seated["by"] != self._learner.pid:
            return
        for actor in self._away.too_long(self._actors.values(), seated["pids"], time.monotonic()):
            self._kill_hung(actor, "it has had no seat for long")

    def _left(self) -> set[str]:
        """Actors that live, or are to be started again."""
        alive = {name for name, actor in self._actors.items() if actor in self._children.alive}
        return alive | (self._restarts.waiting() & self._actors.keys())

    def _actor_ended(self, child: Process) -> None:
        if child.code == 0 or self._kill_at_s < math.inf or self._actors.get(child.name) is not child:
            return
        what = report(child)
        if self._stopping:
            self._note(child, what)
            return
        if child.code in (TransportError.exit_code, PeerLostError.exit_code):
            self._gave_up(child)
        slot = int(child.name.removeprefix("actor-"))
        again = None
        if child.code != ConfigError.exit_code:
            again = self._restarts.allow(child.name, time.monotonic(), lambda: self._start_actor(slot))
        if again is not None:
            self._note(child, f"{what}\nIt is {again}.")
            return
        if left := self._left():
            self._note(child, f"{what}\nIt is not started again; the run goes on with {plural(len(left), 'actor')}.")
        elif child.code == ConfigError.exit_code:
            self._fail(error_of(child))
        else:
            spent = ", and its restarts are used up" if self._restarts.used(child.name) else ""
            self._fail(error(child.code or 0, f"{what}\nNo actor is left{spent}."))

    def _start_replay(self) -> None:
        self._restarts.started("replay", time.monotonic())
        self._replay.start()

    def _replay_ended(self, child: Process) -> None:
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
        if self._learner.code in IN_ORDER:
            self._children.wait_for([c for c in self._children.alive if c is not self._replay.child], GOODBYE_S)

    def _raise_ending(self) -> None:
        error = None if self._learner.code in IN_ORDER else error_of(self._learner)
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
