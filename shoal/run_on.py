"""Where a run's processes are: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.config import Config
from core.errors import ConfigError
from shoal.live import View
from shoal.run_dir import RunDir

LAUNCHERS = ("local", "ray")


@dataclass(frozen=True)
class RunOn:
    """`address` and `wait_for_nodes_s`, how long the cluster may take to have enough CPUs, are Ray's."""

    launcher: str = "local"
    address: str = "auto"
    wait_for_nodes_s: float = 0.0

    def check(self) -> None:
        """Raise ConfigError, before anything is written, for what cannot be used."""
        if self.launcher not in LAUNCHERS:
            raise ConfigError(f"--launcher {self.launcher}: must be one of {', '.join(LAUNCHERS)}")
        if not 0 <= self.wait_for_nodes_s <= 86_400:
            raise ConfigError(f"--wait-for-nodes {self.wait_for_nodes_s:g}: must be seconds from 0 to 86400")
        if self.launcher == "ray":
            from shoal.on_ray.cluster import import_ray

            import_ray()

    def train(self, config: Config, place: RunDir, show: Callable[[], View], *, resume: bool) -> None:
        """Train until the run is over. Raises what ended it."""
        if self.launcher == "ray":
            from shoal.on_ray import driver

            driver.train(config, place, show, self.address, self.wait_for_nodes_s, resume=resume)
            return
        from shoal.launch import Launch

        place.ray_run.unlink(missing_ok=True)
        Launch(config, place, show(), resume=resume).run()


LOCAL = RunOn()
