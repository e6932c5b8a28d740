"""The driver of a run on Ray: starts its manager, or finds the one that is there, shows progress until the run is over.

It reads what happens from the run directory, which it and the manager's node both have, so it may come and go: a second
one attaches. Ctrl-C and SIGTERM end the run; SIGHUP (a closed terminal), or any other end of the driver, does not.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from core.config import Config
from core.errors import ConfigError, PeerLostError
from core.security import TLS, TLS_NAME, TOKEN, TOKEN_FILE
from core.types import Replay
from shoal.endings import error
from shoal.live import View
from shoal.on_ray import cluster, events
from shoal.on_ray.cluster import CALL_TIMEOUT_S, NAMESPACE, Needs, check_room
from shoal.on_ray.manager import Manager, check_actors, plan_of
from shoal.progress import Progress, Tail
from shoal.run_dir import RunDir, release
from shoal.signals import signals

TICK_S = 0.1
ASK_EVERY_S = 2.0
ABSENT_S = 90.0
"""How long a manager may be unreachable, while Ray starts its worker again, before the driver gives up."""
PRIVATE = 0o600


def train(config: Config, run: RunDir, show: Callable[[], View], address: str, wait_s: float, *, resume: bool) -> None:
    """Train until the budget is used up. Raises what ended the run, as `shoal.launch.Launch.run` does.

    The run directory is handed over to the manager.
    """
    needs = needs_of(config)
    with cluster.connected(address) as ray:
        check_room(needs, wait_s)
        home = cluster.choose_home(config.device, run.path.absolute(), needs)
        run.ray_events.unlink(missing_ok=True)
        name = f"shoal-{secrets.token_hex(8)}"
        told = {"address": ray.get_runtime_context().gcs_address, "manager": name, "node": home.node}
        run.ray_run.write_text(json.dumps(told), encoding="utf-8")
        plan = plan_of(config, run, home, needs, _environment(run), resume)
        release(run)
        make = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=4)(Manager).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            scheduling_strategy=cluster.on_node(home.node),
        )
        _Following(config, run, show(), make.remote(plan)).follow()


def attach(config: Config, run: RunDir, show: Callable[[], View]) -> None:
    """Show the progress of a run that goes on. Raises as `train` does, and ConfigError where it is over."""
    with manager_of(run) as manager:
        _Following(config, run, show(), manager).follow()


def goes_on(run_dir: Path) -> bool:
    """Whether a run on Ray is under way there."""
    run = RunDir(run_dir)
    if not run.ray_run.is_file() or events.ending(Tail(run.ray_events).read()) is not None:
        return False
    try:
        with manager_of(run):
            return True
    except ConfigError:
        return False


def scale(run: RunDir, actors: int, wait_s: float = 0.0) -> int:
    """Have `actors` actors; returns how many there were to be. Raises ConfigError where that cannot be."""
    check_actors(actors)
    with manager_of(run) as manager:
        ray = cluster.import_ray()
        now = Needs(*ray.get(manager.needs.remote(), timeout=CALL_TIMEOUT_S))
        if actors > now.actors:
            check_room(Needs(now.learner_cpus, now.replay_cpus, actors), wait_s, owned=now.cpus)
        ray.get(manager.scale.remote(actors), timeout=CALL_TIMEOUT_S)
        return now.actors


@contextmanager
def manager_of(run: RunDir) -> Iterator[Any]:
    """The manager of a run that goes on. Raises ConfigError where there is none."""
    try:
        told = json.loads(run.ray_run.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"{run.path} holds no run on Ray (no {run.ray_run.name}): give the --run-dir of one"
        ) from None
    with cluster.connected(told["address"]) as ray:
        try:
            manager = ray.get_actor(told["manager"], namespace=NAMESPACE)
        except ValueError:
            raise ConfigError(
                f"the run in {run.path} does not go on: its manager {told['manager']} is not in the cluster at "
                f"{told['address']}; --resume continues a run that was stopped"
            ) from None
        yield manager


def needs_of(config: Config) -> Needs:
    """CPUs. Raises ConfigError where the algorithm cannot use its settings."""
    from core.algorithms import make
    from core.plugins import import_modules

    import_modules(config.imports)
    stores = isinstance(make(config.algorithm, config.settings).plan().table, Replay)
    return Needs(config.learner_threads or 1, int(stores and config.replay == "process"), config.actors)


def _environment(run: RunDir) -> dict[str, str]:
    """Tokens and certificates for all processes: the user's, else a token of this run's own."""
    found = {name: os.environ[name] for name in (*TLS.values(), TLS_NAME) if os.environ.get(name)}
    token = os.environ.get(TOKEN)
    if os.environ.get(TOKEN_FILE):
        token = Path(os.environ[TOKEN_FILE]).read_text(encoding="utf-8")
    if not token:
        token = secrets.token_urlsafe(32)
        run.ray_token.unlink(missing_ok=True)
        with open(
            run.ray_token, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, PRIVATE)
        ) as file:
            file.write(f"{token}\n")
    return found | {TOKEN: token}


class _Following:
    """One driver's look at one run."""

    def __init__(self, config: Config, run: RunDir, view: View, manager: Any) -> None:
        self._run, self._view, self._manager = run, view, manager
        self._progress = Progress(config.algorithm, config.env, config.env_steps, config.target_return)
        self._metrics, self._events = Tail(run.metrics), Tail(run.ray_events)
        self._signal: int | None = None
        self._woken = threading.Event()
        self._asked: Any = None
        self._dead = False

    def follow(self) -> None:
        """Until the run is over, or SIGHUP."""
        ended = None
        absent_s = since_asked_s = 0.0
        problem: str | None = None
        with ExitStack() as stack:
            stack.callback(self._view.close)
            stack.enter_context(signals(self._on_signal))
            while ended is None:
                self._woken.wait(TICK_S)
                self._woken.clear()
                since_asked_s += TICK_S
                if since_asked_s >= ASK_EVERY_S:
                    since_asked_s, problem = 0.0, self._problem()
                    absent_s = 0.0 if problem is None else absent_s + ASK_EVERY_S
                ended = self._look()
                if ended is None and (self._dead or absent_s >= ABSENT_S):
                    raise PeerLostError(
                        f"the run's manager is gone, or has not answered for {ABSENT_S:g} s: {problem}\n"
                        f"--resume continues the run in {self._run.path}"
                    )
                self._act()
        if ended.code == 130:
            raise KeyboardInterrupt
        if ended.code == 143:
            raise SystemExit(143)
        if ended.code:
            raise error(ended.code, ended.text)

    def _look(self) -> events.Ending | None:
        records = self._events.read()
        for text in events.notes(records):
            self._view.note(text)
        self._progress.page = events.page(records, self._progress.page)
        self._progress.take(self._metrics.read(), self._metrics.replaced)
        self._view.update(self._progress)
        return events.ending(records)

    def _problem(self) -> str | None:
        """Why the manager did not answer what it was asked before; asks the next one."""
        ray = cluster.import_ray()
        problem = None
        if self._asked is not None:
            try:
                ray.get(self._asked, timeout=0)
            except ray.exceptions.RayError as error:
                problem = str(error) or "no answer"
                self._dead = isinstance(error, ray.exceptions.ActorDiedError)
        self._asked = self._manager.needs.remote()
        return problem

    def _on_signal(self, number: int) -> None:
        self._signal = self._signal or number
        self._woken.set()

    def _act(self) -> None:
        """What a signal asks for, once."""
        number, self._signal = self._signal, None
        if number == signal.SIGHUP:
            raise SystemExit(128 + signal.SIGHUP)
        if number is not None:
            self._manager.stop.remote(number)
