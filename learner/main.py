"""The learner's process: reads the settings, starts the services beside training, trains, leaves a run directory.

The main thread trains. `LoopThread` runs the services' event loop; `Source` fetches batches in one more thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from core.algorithms import make
from core.algorithms.contract import Algorithm
from core.algorithms.signature import item_signature
from core.clock import SystemClock
from core.config import Config
from core.errors import CheckpointError, ConfigError, DivergedError, ReplayError, ShoalError, another_life_may_help
from core.http import HttpServer, MetricsServer
from core.metrics import Metrics
from core.plugins import import_modules
from core.rl.optim import flatten
from core.security import from_environment
from core.types import Async, Episodes, Lag, Plan, Recorded, Replay, Rows
from learner.checkpoints import Checkpoints, Start
from learner.evaluation import Evaluator, look_at_environment
from learner.page import Page, serve
from learner.progress import Progress
from learner.recorder import Recorder
from learner.services import Services
from learner.source import Source
from learner.status import Status
from learner.trainer import INTERRUPTED, Trainer

logger = logging.getLogger(__name__)
LAST_READING_S = 15.0
"""How long a run that diverged waits until its metrics were read, if anybody ever did."""
IN_FLIGHT_UNROLLS = 16
"""Of each actor, that a table which never evicts has room for beyond the budget: under way when the run ends."""


def run(config: Config, *, sockets: Sequence[str] = (), replay_address: str | None = None, resume: bool = False) -> int:
    """Train one run in `config.run_dir`, which exists. Returns the exit code; raises ShoalError.

    `sockets` are unix socket paths to listen on beside `config.network.listen`. `replay_address` is where a replay
    server is, or will be; None hosts replay tables here.
    """
    if config.run_dir is None:
        raise ConfigError("run_dir: the learner needs a run directory; pass --run-dir")
    run_dir = Path(config.run_dir)
    import_modules(config.imports)
    algorithm = make(config.algorithm, config.settings)
    plan = resolve(config, algorithm.plan())
    external = isinstance(plan.table, Replay) and config.replay == "process"
    if external and replay_address is None:
        raise ConfigError(
            f"{config.algorithm} stores in a replay table: pass --replay-address of a running `shoal replay`, "
            "or --replay embedded to host it in the learner"
        )
    if external:
        (run_dir / "logs").mkdir(exist_ok=True)
        (run_dir / "logs" / "needs-replay").touch()
    learner = Learner(config, run_dir, algorithm, plan, resume)
    try:
        learner.serve(sockets, replay_address if external else None)
        return learner.train()
    except DivergedError:
        learner.tell_diverged()
        raise
    except Exception as error:
        learner.goes_on = another_life_may_help(getattr(error, "exit_code", ShoalError.exit_code))
        raise
    finally:
        learner.close()


def resolve(config: Config, plan: Plan) -> Plan:
    """The plan at the configured pace. Raises ConfigError for one that the table cannot keep."""
    lag = config.policy_lag
    pace: Lag | Async = plan.pace
    if lag != "auto" and not (lag == "async" and isinstance(pace, Async)):
        pace = Async() if lag == "async" else Lag(lag)
    if isinstance(plan.table, Replay) and plan.table.max_times_sampled and isinstance(pace, Lag):
        raise ConfigError(
            f"policy_lag: with a fixed lag of {lag} the number of updates is arithmetic, and items that leave after "
            f"{plan.table.max_times_sampled} draws may leave nothing to draw from. Use --policy-lag async"
        )
    table = plan.table
    if isinstance(table, Replay) and not table.evict:
        in_flight = IN_FLIGHT_UNROLLS * config.actors * config.envs_per_actor * _rows(plan.collect)
        table = dataclasses.replace(table, capacity=config.env_steps + in_flight)
    return Plan(plan.collect, table, pace)


def _rows(collect: Rows | Episodes | Recorded) -> int:
    return collect.max_rows if isinstance(collect, Episodes) else collect.rows


class Learner:
    """Everything of one learner process."""

    def __init__(self, config: Config, run_dir: Path, algorithm: Algorithm, plan: Plan, resume: bool) -> None:
        self._config, self._run_dir, self._algorithm, self._plan = config, run_dir, algorithm, plan
        self.goes_on = False
        """Whether the run is to go on in another life of the learner: actors are not told that it is over."""
        self._device = _device(config)
        torch.set_num_threads(config.learner_threads or max(1, _cores() - config.actors))
        self._spec = look_at_environment(config)
        torch.manual_seed(config.seed)
        self._network = algorithm.network(self._spec)
        self._signature = item_signature(algorithm, self._network, self._spec, config.envs_per_actor)
        self._network = self._network.to(self._device)
        self._flat = flatten(self._network)
        self._state = algorithm.state(self._network)
        self._progress = Progress(SystemClock().now_s, config.env_steps)
        folder = run_dir / "checkpoints"
        self._checkpoints = Checkpoints(config, plan, folder, self._spec, self._flat, self._state, self._progress)
        self._resumed = resume
        self._start = self._checkpoints.resume() if resume else Start()
        self._security = from_environment()
        self._page = Page(config, run_dir, self._security) if config.network.page else None
        self._recorder = Recorder(run_dir, self._progress, Metrics(), self._page, self._device)
        self._services: Services | None = None
        self._source: Source | None = None
        self._http: list[HttpServer] = []
        self._evaluator = Evaluator(config, algorithm, self._spec)

    def serve(self, sockets: Sequence[str], replay_address: str | None) -> None:
        """Start the services; actors may join from here on."""
        config = self._config
        self._services = Services(
            config,
            self._plan,
            self._signature,
            manifest=self._flat.manifest(),
            incarnation=secrets.randbits(63),
            start=self._start,
            env_steps=self._progress.env_steps,
            restart_every_rounds=self._checkpoints.rounds_between,
            news=lambda: (self._recorder.figures, self._recorder.verdict),
            security=self._security,
            sent=self._recorder.exporter.weights,
        )
        if config.network.metrics_port is not None:
            starting = "its services do not listen yet: a replay server may be missing"
            self._http.append(
                MetricsServer(
                    self._recorder.metrics,
                    config.network.metrics_port,
                    config.network.metrics_host,
                    ready=lambda: None if self._source is not None else starting,
                )
            )
        addresses = self._services.start([config.network.listen, *(f"unix:{path}" for path in sockets)], replay_address)
        self._source = Source(self._services.fetch(), self._device)
        print(f"learner listens on {', '.join(addresses)}", flush=True)
        if self._page is not None and config.network.page is not None:
            self._http.append(serve(self._page, config.network.page, self._security, port_may_change=self._resumed))
            print(f"page at {self._http[-1].url}", flush=True)

    def train(self) -> int:
        """Train, evaluate the final params, write checkpoint and summary. Returns the exit code.

        Whatever ends the run but divergence, the last params are saved first. A run that a signal ended is not over:
        its exit code is the signal's, so that who supervises it has it go on.
        """
        if self._services is None or self._source is None:
            raise ConfigError("the learner's services are not running")
        services = self._services
        trainer = Trainer(
            self._config,
            self._algorithm,
            self._network,
            self._flat,
            self._state,
            self._source,
            self._progress,
            self._recorder,
            self._evaluator,
            publish=self._publisher(services),
            before_publish=self._at_reset_point,
            save=self._save,
            save_every_s=math.inf if self._checkpoints.rounds_between else self._config.checkpoint.every_s,
            status=services.status,
        )
        with _stop_on_signals(trainer) as signals:
            try:
                self._begin(services)
                reason = trainer.run()
            except Exception as error:
                if not isinstance(error, DivergedError):
                    self._save()
                raise
            services.finish(reason)
            if self._page is not None:
                self._page.over(reason)
            self._checkpoints.save()
            if self._progress.updates and reason != INTERRUPTED:
                trainer.evaluate()
                self._checkpoints.save()
            self._recorder.tick(services.status, force=True)
            self._summarise(reason, trainer)
        print(f"the run is over: {reason}", flush=True)
        return 128 + signals[0] if signals and reason == INTERRUPTED else 0

    def tell_diverged(self) -> None:
        """Say so in the metrics, and let whoever reads them see it: after this process nobody would know."""
        self._recorder.exporter.diverged()
        for server in self._http:
            if isinstance(server, MetricsServer):
                server.wait_until_read(server.next_reading(), LAST_READING_S)

    def _begin(self, services: Services) -> None:
        """Publish what actors may still need of before; a new run writes down where it begins."""
        for version, env_steps, params in self._start.published:
            self._checkpoints.published(version, env_steps, params)
            services.publish(version, env_steps, params)
        if not self._resumed:
            self._at_reset_point(0)

    def _publisher(self, services: Services) -> Callable[[int, int], None]:
        """What hands a version on; with what it contains of each actor, where the actors wait for that."""
        pace = self._plan.pace
        settled = self._progress.settled if isinstance(pace, Async) and pace.own_applied else None

        def publish(version: int, env_steps: int) -> None:
            params = self._flat.snapshot()
            self._checkpoints.published(version, env_steps, params)
            services.publish(version, env_steps, params, settled)

        return publish

    def _summarise(self, reason: str, trainer: Trainer) -> None:
        status = self._services.status() if self._services else Status()
        self._recorder.summary(
            {
                "algorithm": self._config.algorithm,
                "env": self._config.env,
                "seed": self._config.seed,
                "actors": self._config.actors,
                "envs_per_actor": self._config.envs_per_actor,
                "policy_lag": self._plan.pace.rounds if isinstance(self._plan.pace, Lag) else "async",
                "device": str(self._device),
                "ended": reason,
                "restarts": status.replaced,
                "deterministic": status.deterministic and self._start.exact,
                "weights_sha256": hashlib.sha256(self._flat.snapshot().tobytes()).hexdigest(),
                "first_update_unix_s": trainer.first_update_unix_s,
                "solved_unix_s": trainer.solved_unix_s,
            }
        )

    def _at_reset_point(self, version: int) -> None:
        """Write what the run goes on from after a kill, if this version is to be published at a reset point."""
        if self._services is None or not self._checkpoints.is_reset_point(version):
            return
        try:
            drawing, exact = self._services.mark_reset_point(version, self._checkpoints.reset_points())
            self._checkpoints.save_at_reset_point(drawing, exact=exact and self._start.exact)
        except (CheckpointError, ReplayError) as error:
            logger.warning("no checkpoint of version %d: %s; the run goes on, and the one before stays", version, error)

    def _save(self) -> None:
        try:
            self._checkpoints.save()
        except CheckpointError as error:
            logger.warning("%s; the run goes on", error)

    def close(self) -> None:
        """Stop the services and threads and flush the files."""
        if self._services is not None:
            self._services.close(abandon=self.goes_on)
        if self._source is not None:
            self._source.close()
        for server in self._http:
            server.close()
        self._evaluator.close()
        self._recorder.close()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(config: Config) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _stop_on_signals(trainer: Trainer) -> Iterator[list[int]]:
    """Have Ctrl-C and SIGTERM end the training in order; gives the signals that came."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        trainer.stop(INTERRUPTED)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
