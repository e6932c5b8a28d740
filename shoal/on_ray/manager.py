"""The detached Ray actor that a run is while its driver is away: the launcher, on the node of the run directory.

Ray calls its methods on threads of its own; one thread more runs the launcher. When the run is over it says so in the
run directory and ends itself. Where its worker is lost Ray starts it again on the same node, and the run goes on from
its newest checkpoint; its supervisors have ended with it. Where the node is lost the run is over, until it is resumed.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import checkpoint
from core import config as configuration
from core.config import Config
from core.errors import ConfigError, ShoalError
from core.plugins import modules_of
from core.security import is_loopback
from shoal.launch import Launch
from shoal.on_ray import events
from shoal.on_ray.cluster import Home, Needs
from shoal.on_ray.events import Ending, EventsView
from shoal.on_ray.processes import LEARNER, RayProcesses
from shoal.on_ray.targets import Targets
from shoal.progress import Tail
from shoal.run_dir import RunDir, prepare, release

TARGETS = "scrape-targets.json"


class Manager:
    """`plan` is `plan_of`'s: settings, run directory, home, what the processes get."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        import ray

        os.environ.update(plan["environment"])
        self._run = RunDir(Path(plan["run_dir"]))
        self._view = EventsView(self._run.ray_events)
        self._records = Tail(self._run.ray_events).read()
        context = ray.get_runtime_context()
        self._me = context.current_actor
        home, needs = Home(context.get_node_id(), ray.util.get_node_ip_address(), plan["gpus"]), Needs(*plan["needs"])
        config = _at(configuration.from_plain(plan["config"]), home.host)
        cpus = {"learner": needs.learner_cpus} | ({"replay": needs.replay_cpus} if needs.replay_cpus else {})
        targets = Targets(self._run.logs / TARGETS, config.network.metrics_port)
        self._processes = RayProcesses(home, cpus, plan["cwd"], plan["environment"], self._view.note, targets.placed)
        resume = plan["resume"]
        if context.was_current_actor_reconstructed:
            resume = bool(checkpoint.all_in(self._run.checkpoints))
            where = "from its newest checkpoint" if resume else "from the beginning: there is no checkpoint yet"
            self._view.note(f"The run's manager was lost with its Ray worker or node: all begins again, {where}.")
        self._launch = Launch(
            config,
            self._run,
            self._view,
            resume=resume,
            children=self._processes,
            learner_arguments=[
                *("--set", f"learner_threads={needs.learner_cpus}"),
                f"network.metrics_host={config.network.metrics_host}",
            ],
            actor_arguments=["--learner", LEARNER, *_imports(config)],
        )
        self._needs = dataclasses.replace(needs, actors=events.wanted(self._records, config.actors))
        self._launch.scale(self._needs.actors)
        threading.Thread(target=self._main, name="launcher", daemon=True).start()

    def needs(self) -> tuple[int, int, int]:
        """What it takes of the cluster now; also how the driver finds out whether it lives."""
        return dataclasses.astuple(self._needs)

    def scale(self, actors: int) -> None:
        """Have so many actors from now on."""
        self._needs = dataclasses.replace(self._needs, actors=actors)
        self._view.scaled(actors)
        self._launch.scale(actors)

    def stop(self, number: int) -> None:
        """End the run in order, with its checkpoint written."""
        self._launch.stop(number)

    def _main(self) -> None:
        import ray

        try:
            if events.ending(self._records) is None:
                self._view.ended(self._train())
        finally:
            ray.kill(self._me, no_restart=True)

    def _train(self) -> Ending:
        try:
            prepare(self._run.path, resume=True)
            self._processes.reserve()
            self._launch.run()
            return Ending(0, "")
        except ShoalError as error:
            return Ending(error.exit_code, str(error))
        except KeyboardInterrupt:
            return Ending(130, "")
        except SystemExit as error:
            return Ending(int(error.code or 0), "")
        except BaseException:
            return Ending(ShoalError.exit_code, traceback.format_exc())
        finally:
            release(self._run)


def plan_of(
    config: Config, run: RunDir, home: Home, needs: Needs, environment: Mapping[str, str], resume: bool
) -> dict[str, Any]:
    """What a manager is made with: plain data."""
    return {
        "config": configuration.to_plain(config),
        "run_dir": str(run.path.absolute()),
        "gpus": home.gpus,
        "needs": dataclasses.astuple(needs),
        "environment": dict(environment),
        "cwd": os.getcwd(),
        "resume": resume,
    }


def _at(config: Config, host: str) -> Config:
    """Services listen where other nodes reach them, and figures that are to be scraped; the user's ports stay."""
    network = config.network
    scraped = network.metrics_host
    if is_loopback(f"{scraped}:0"):
        scraped = "0.0.0.0"  # nosec B104
    listen = f"{host}:{network.listen.rpartition(':')[2]}"
    return dataclasses.replace(config, network=dataclasses.replace(network, listen=listen, metrics_host=scraped))


def _imports(config: Config) -> list[str]:
    """The modules that actors may be told to import: this run's, which its user chose."""
    return [
        word for name in modules_of(config.imports, (config.env, *config.env_wrappers)) for word in ("--import", name)
    ]


def check_actors(actors: int) -> None:
    """Raise ConfigError for a number that no run may have."""
    try:
        dataclasses.replace(Config(), actors=actors)
    except ConfigError as error:
        raise ConfigError(*error.problems) from None
