"""`shoal attach`, `scale` and `sweep`: the commands for Ray clusters beside `shoal train --launcher ray`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from core.errors import ConfigError
from shoal import flags as common

Arguments = argparse.Namespace
Add = Callable[[str, Callable[[Arguments], int]], argparse.ArgumentParser]


def attach(arguments: Arguments) -> int:
    """Show the progress of a run on Ray whose driver has left."""
    from shoal import training

    training.attach(arguments.run, quiet=arguments.quiet)
    return 0


def scale(arguments: Arguments) -> int:
    """Have another number of actors in a run on Ray, from now on."""
    from shoal.on_ray import driver
    from shoal.run_dir import RunDir

    before = driver.scale(RunDir(arguments.run), arguments.actors, arguments.wait_for_nodes)
    print(f"{arguments.run}: {arguments.actors} actors instead of {before}")
    return 0


def sweep(arguments: Arguments) -> int:
    """Search for good settings with Ray Tune, many runs at a time."""
    from shoal import settings
    from shoal.on_ray.cluster import import_ray

    if arguments.resume:
        raise ConfigError(
            "--resume: a sweep cannot be continued; a trial can, as the run that it is: shoal train --resume"
        )
    import_ray()
    from shoal.on_ray import sweep as search

    search.run(
        arguments.config,
        {name: getattr(arguments, name) for name in settings.FLAGS},
        arguments.set,
        arguments.vary,
        search.Search(arguments.search, arguments.trials, arguments.at_once),
        address=arguments.address,
        overwrite=arguments.overwrite,
    )
    return 0


def add_to(command: Add) -> None:
    """Add the three to the `shoal` command."""
    this = command("attach", attach)
    this.add_argument("run", type=Path, metavar="RUN", help="its run directory")
    common.add_quiet(this)

    this = command("scale", scale)
    this.add_argument("run", type=Path, metavar="RUN", help="its run directory")
    this.add_argument("actors", type=int, metavar="N", help="actors it is to have")
    common.add_wait_for_nodes(this)

    this = command("sweep", sweep)
    common.add_settings(this)
    group = this.add_argument_group("search")
    group.add_argument(
        "--vary",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUES",
        help="what to vary: NAME=A,B,C or NAME=LOW..HIGH or NAME=LOW..HIGH:log",
    )
    group.add_argument("--search", default="random", choices=("grid", "random", "asha", "pbt"), help="how to look")
    group.add_argument("--trials", type=int, default=8, metavar="N", help="runs; a grid has all combinations")
    group.add_argument("--at-once", type=int, default=0, metavar="N", help="at most; default: as many as have room")
    common.add_address(this)
