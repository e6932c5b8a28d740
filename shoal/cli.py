"""The `shoal` command: reads its arguments and calls the part that does the work.

Every part is imported when its subcommand runs: a launcher needs no torch, an actor no matplotlib.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import shoal
from core.addresses import is_reachable
from core.errors import ConfigError, ShoalError
from core.fields import nearest
from shoal import flags as common
from shoal import ray_commands, replay_command

Arguments = argparse.Namespace
EXIT_INTERRUPTED = 130
ORPHANED_LEARNER_S = 2.0
"""After the launcher was killed, how long the learner has to write its checkpoint and go."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. An error of Shoal's is one message; any other keeps its traceback."""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        common.to_environment(arguments)
        code: int = arguments.command(arguments)
        return code
    except ShoalError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def parse(argv: Sequence[str]) -> Arguments:
    """The arguments of a command line. Raises ConfigError for unknown flags, SystemExit for what argparse finds."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if arguments.command is bench:
        arguments.rest = unknown
    elif unknown:
        hint = nearest(unknown[0].partition("=")[0], common.names_of(parser, arguments.name))
        raise ConfigError(f"shoal {arguments.name}: unknown argument {' '.join(unknown)}{hint}")
    return arguments


def train(arguments: Arguments) -> int:
    """Start a run, on this machine or a Ray cluster, and show its progress."""
    from shoal import settings, training
    from shoal.run_on import RunOn

    flags = {name: getattr(arguments, name) for name in settings.FLAGS}
    training.run(
        arguments.config,
        flags,
        arguments.set,
        on=RunOn(arguments.launcher, arguments.address, arguments.wait_for_nodes),
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        quiet=arguments.quiet,
    )
    return 0


def learner(arguments: Arguments) -> int:
    """Serve actors and train; the launcher's child, or a program of its own in a cluster."""
    _serve(arguments, ORPHANED_LEARNER_S)
    from learner.main import run
    from shoal import settings, training

    flags = {name: getattr(arguments, name) for name in settings.FLAGS}
    where = {"sockets": arguments.socket, "replay_address": arguments.replay_address}
    if arguments.supervised:
        return run(settings.read(arguments.config, flags, arguments.set), **where, resume=arguments.resume)
    resume = training.to_resume(arguments.resume, flags)
    config, place = training.set_up(
        arguments.config, flags, arguments.set, resume=resume, overwrite=arguments.overwrite
    )
    with training.undone_if_refused(place, resume, Exception):
        training.write_config(config, place)
        if arguments.resume == "auto" and training.is_complete(config, place):
            return 0
        code = run(config, **where, resume=resume and training.can_resume(place))
        if code == 0:
            training.draw(place)
        return code


def actor(arguments: Arguments) -> int:
    """Join a learner and collect experience until it says that the run is over."""
    if not is_reachable(arguments.learner):
        raise ConfigError(
            f"--learner {arguments.learner}: must be HOST:PORT or unix:PATH, as `learner listens on` says"
        )
    _serve(arguments)
    from actors.exporter import Exporter
    from actors.main import run

    metrics = Exporter(arguments.metrics_port, arguments.metrics_host)
    return run(arguments.learner, arguments.slot, arguments.imports, metrics)


def replay(arguments: Arguments) -> int:
    """Serve replay tables."""
    _serve(arguments)
    return replay_command.serve(arguments)


def verify_replay(arguments: Arguments) -> int:
    """Check what a data directory holds; nothing is changed."""
    return replay_command.verify(arguments.folder)


def evaluate(arguments: Arguments) -> int:
    """Play episodes with a trained policy."""
    from shoal import evaluate as evaluation
    from shoal.policy import load
    from shoal.run_dir import RunDir

    if arguments.episodes < 1:
        raise ConfigError(f"--episodes {arguments.episodes}: at least 1 is needed")
    policy = load(arguments.run, arguments.checkpoint)
    print(f"{policy.algorithm} on {policy.env}, trained for {policy.env_steps:,} env steps ({policy.path})")
    played = evaluation.play(policy, arguments.episodes, arguments.seed)
    print(f"  {'episodes':<20}{len(played.episodes):>10}")
    for name, value in played.figures().items():
        print(f"  {name:<20}{value:>10,.1f}")
    if arguments.video:
        path, episode = evaluation.film(policy, RunDir(arguments.run).videos, arguments.seed)
        print(f"  video of an episode with return {episode.total_reward:,.1f}: {path}")
    return 0


def plot(arguments: Arguments) -> int:
    """Draw one run, or compare several."""
    from shoal import plots

    if len(arguments.runs) == 1:
        path = plots.draw_learning_curve(arguments.runs[0], arguments.out)
    else:
        path = plots.draw_comparison(arguments.runs, arguments.out or Path("comparison.png"))
    print(path)
    return 0


def collect(arguments: Arguments) -> int:
    """Play episodes with a trained policy and keep them as a Minari dataset."""
    from shoal.collecting import collect as write

    found = write(
        arguments.run,
        arguments.out,
        episodes=arguments.episodes,
        seed=arguments.seed,
        explore=arguments.explore,
        checkpoint=arguments.checkpoint,
    )
    print(
        f"{found.dataset_id}: {found.episodes:,} episodes, {found.steps:,} steps, mean return {found.mean_return:,.1f}"
    )
    return 0


def status(arguments: Arguments) -> int:
    """Ask a running learner or replay server how it is."""
    if not is_reachable(arguments.address):
        raise ConfigError(
            f"{arguments.address!r} is no address: HOST:PORT or unix:PATH is needed; "
            "the run directory's logs/learner.log and logs/replay.log have them as `listens on`"
        )
    _quiet_grpc()
    from rich.console import Console

    from shoal import status as info

    Console().print(info.show(arguments.address))
    return 0


def bench(arguments: Arguments) -> int:
    """Run the benchmarks of the repository."""
    from shoal.processes import HOME

    is_replay = arguments.rest[:1] == ["replay"]
    wanted = "benchmarks/replay/__init__.py" if is_replay else "benchmarks/__main__.py"
    if not (HOME / wanted).is_file():
        raise ConfigError(
            f"there is no {wanted} in {HOME}: it is part of Shoal's repository, not of the installed package; "
            "clone the repository and run this there"
        )
    if is_replay:
        sys.path.insert(0, str(HOME))
        code: int = importlib.import_module("benchmarks.replay").main(arguments.rest[1:])
        return code
    return subprocess.call([sys.executable, "-m", "benchmarks", *arguments.rest], cwd=HOME)


def _serve(arguments: Arguments, grace_s: float = 0.0) -> None:
    """What the three services have in common: a log on standard error, and an end with the launcher."""
    _quiet_grpc()
    if arguments.supervised:
        from shoal.supervised import end_with_parent

        end_with_parent(grace_s=grace_s)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)


def _quiet_grpc() -> None:
    """No lines of gRPC's own before our messages. Has an effect before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("shoal", description="Distributed reinforcement learning.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="name")

    def command(name: str, function: Callable[[Arguments], int], help_: bool = True) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False, add_help=help_)
        added.set_defaults(command=function)
        return added

    this = command("train", train)
    common.add_settings(this)
    common.add_security(this)
    common.add_launcher(this)
    common.add_quiet(this)

    ray_commands.add_to(command)

    this = command("learner", learner)
    common.add_settings(this)
    common.add_sockets(this)
    common.add_security(this)
    this.add_argument("--replay-address", metavar="ADDRESS", help="the replay server, HOST:PORT or unix:PATH")

    this = command("actor", actor)
    this.add_argument("--learner", required=True, metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    this.add_argument("--slot", type=int, metavar="N", help="the place to ask for; default: any that is free")
    this.add_argument(
        "--import",
        action="append",
        dest="imports",
        default=[],
        metavar="MODULE",
        help="a module that a learner may have this actor import although nothing proves who it is; may be given again",
    )
    this.add_argument("--metrics-port", type=int, metavar="PORT", help="answer Prometheus there, at /metrics")
    this.add_argument("--metrics-host", default="127.0.0.1", metavar="HOST", help="on that address; default: loopback")
    common.add_security(this)
    common.add_supervised(this)

    this = command("replay", replay)
    this.usage = "shoal replay --listen ADDRESS [options]\n       shoal replay verify DIR"
    replay_command.add_arguments(this)
    common.add_sockets(this)
    common.add_security(this)
    text = (verify_replay.__doc__ or "").strip()
    more = this.add_subparsers(title="or", metavar="verify DIR", prog="shoal replay")
    this = more.add_parser("verify", help=text, description=text, allow_abbrev=False)
    this.add_argument("folder", type=Path, metavar="DIR", help="what --data-dir said")
    this.set_defaults(command=verify_replay)

    this = command("eval", evaluate)
    this.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    this.add_argument("--episodes", type=int, default=20, metavar="N")
    this.add_argument("--seed", type=int, default=0, metavar="N")
    this.add_argument(
        "--checkpoint", default="best", metavar="NAME", help="best (default), latest or a checkpoint's folder"
    )
    this.add_argument("--video", action="store_true", help="write an animated GIF of one episode into RUN/videos")

    this = command("collect", collect)
    this.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    this.add_argument("--out", required=True, metavar="NAME", help="of the dataset, such as cartpole/expert-v0")
    this.add_argument("--episodes", type=int, default=100, metavar="N")
    this.add_argument("--seed", type=int, default=0, metavar="N")
    this.add_argument("--explore", action="store_true", help="explore as in training instead of acting greedily")
    this.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), latest or its folder")

    this = command("plot", plot)
    this.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    this.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/learning_curve.png, or comparison.png")

    this = command("status", status)
    this.add_argument("address", metavar="ADDRESS", help="its HOST:PORT")
    common.add_security(this)
    command("bench", bench, help_=False)
    return parser
