"""Flags of the `shoal` command that several of its parts have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from core.security import TLS, TLS_NAME, TOKEN_FILE


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags of a run. None have defaults here: those are in the tree, below the preset and the file."""
    group = parser.add_argument_group("settings", "what is not given comes from FILE, the preset or the defaults")
    for flag, metavar, text in (
        ("--algorithm", "NAME", "what learns, such as ppo or dqn"),
        ("--env", "ID", "gymnasium's id of the environment"),
        ("--actors", "N", "actor processes to start"),
        ("--envs-per-actor", "N", "environments that one actor steps together"),
        ("--env-steps", "N", "the run's budget"),
        ("--seed", "N", "all randomness is derived from it"),
        ("--run-dir", "PATH", "where everything that the run leaves is written"),
        ("--target-return", "X", "end early when an evaluation reaches it"),
        ("--policy-lag", "0|1|async", "versions between acting and learning"),
        ("--replay", "process|embedded", "where a replay table lives"),
        ("--data-dir", "DIR", "keep the replay tables there after the run"),
        ("--device", "auto|cpu|cuda", "what the learner computes on"),
        ("--listen", "HOST:PORT", "where the learner listens for actors"),
        ("--page", "HOST:PORT", "where the learner serves its web page"),
    ):
        group.add_argument(flag, metavar=metavar, help=text)
    group.add_argument(
        "--import",
        action="append",
        dest="imports",
        metavar="MODULE",
        help="a module of your own that every process imports; may be given again",
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="settings as a YAML file")
    group.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any setting, such as ppo.gamma=0.98",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        choices=("auto",),
        help="continue the run in --run-dir; auto: if there is one, else begin it",
    )
    group.add_argument("--overwrite", action="store_true", help="remove the run in --run-dir first")


_SECURITY = {
    "token_file": (TOKEN_FILE, "tokens to call with and, for a service, to ask for"),
    "tls_ca": (TLS["ca"], "certificates (PEM) that the other end's must be signed by"),
    "tls_cert": (TLS["cert"], "certificate (PEM) to show"),
    "tls_key": (TLS["key"], "its key (PEM)"),
    "tls_name": (TLS_NAME, "the name in the other end's certificate, where it is not its address"),
}
"""Flags whose values children and the services find in the environment."""


def add_security(parser: argparse.ArgumentParser) -> None:
    """Tokens and certificates."""
    group = parser.add_argument_group("security", "each may come from the environment instead; docs/security.md")
    for name, (variable, text) in _SECURITY.items():
        metavar = "NAME" if name == "tls_name" else "FILE"
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=f"{text} ({variable})")


def to_environment(arguments: argparse.Namespace) -> None:
    """Put the security flags where this process and its children look for them."""
    for name, (variable, _) in _SECURITY.items():
        value = getattr(arguments, name, None)
        if value is not None:
            os.environ[variable] = value if name == "tls_name" else os.path.abspath(value)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Where a run's processes are."""
    parser.add_argument("--launcher", default="local", choices=("local", "ray"), help="where the processes run")
    add_address(parser)
    add_wait_for_nodes(parser)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Of what uses a Ray cluster."""
    parser.add_argument("--address", default="auto", metavar="HOST:PORT", help="of the Ray cluster; auto: this node's")


def add_wait_for_nodes(parser: argparse.ArgumentParser) -> None:
    """Of a Ray cluster that grows."""
    parser.add_argument(
        "--wait-for-nodes",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long the Ray cluster may take to have enough CPUs; its autoscaler is asked for them",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Of what shows progress."""
    parser.add_argument("--quiet", action="store_true", help="show warnings and errors only")


def add_sockets(parser: argparse.ArgumentParser) -> None:
    """Of a service."""
    parser.add_argument("--socket", action="append", default=[], metavar="PATH", help="a unix socket to listen on, too")
    add_supervised(parser)


def add_supervised(parser: argparse.ArgumentParser) -> None:
    """Of a launcher's child."""
    parser.add_argument("--supervised", action="store_true", help="end as soon as standard input is closed")


def names_of(parser: argparse.ArgumentParser, name: str) -> list[str]:
    """All flags of one subcommand."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return [flag for action in commands.choices[name]._actions for flag in action.option_strings]
