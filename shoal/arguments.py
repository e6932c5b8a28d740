"""What a launcher starts its learner and its actors with, as arguments of `shoal`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from core.config import Config
from shoal.run_dir import RunDir
from shoal.sockets import LEARNER, REPLAY


def of_learner(
    config: Config, run: RunDir, sockets: Path, *, port: int | None, page: str | None, resume: bool
) -> list[str]:
    """`port` and `page` are where its former life was: actors and browsers come back there."""
    arguments = ["learner", "--config", str(run.config), "--run-dir", str(run.path)]
    arguments += ["--socket", str(sockets / LEARNER), "--supervised"]
    if config.replay == "process":
        arguments += ["--replay-address", f"unix:{sockets / REPLAY}"]
    host, _, asked_port = config.network.listen.rpartition(":")
    arguments += ["--listen", f"{host}:{port or asked_port}"]
    if page and config.network.page:
        arguments += ["--page", f"{config.network.page.rpartition(':')[0]}:{urlsplit(page).port}"]
    return [*arguments, "--resume"] if resume else arguments


def of_actor(config: Config, slot: int, place: Sequence[str]) -> list[str]:
    """`place` is where the learner is."""
    arguments = ["actor", *place, "--slot", str(slot), "--supervised"]
    if config.network.actor_metrics_port is not None:
        arguments += ["--metrics-port", str(config.network.actor_metrics_port + slot)]
        arguments += ["--metrics-host", config.network.metrics_host]
    return arguments
