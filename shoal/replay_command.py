"""`shoal replay`: reads its arguments, says where tables are kept, and runs the server. `shoal replay verify DIR`."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.addresses import MAX_PORT, is_host_port
from core.errors import ConfigError
from core.security import from_environment
from shoal import data_place
from shoal.data_place import MEMORY, Place
from shoal.sockets import MAX_SOCKET_PATH_BYTES

MANIFEST_EVERY_S = 10.0
T = TypeVar("T")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?)?B?", re.I)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Options:
    """What `replay_server.main.run` is called with."""

    listen: str
    sockets: list[str]
    place: Place
    max_bytes: int | None
    manifest_every_s: float
    metrics_port: int | None
    metrics_host: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `shoal replay`. All are texts: `read` names every problem at once."""
    parser.add_argument("--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH; needed")
    parser.add_argument("--data-dir", metavar="DIR", help=f"where tables are kept; {MEMORY}: in this process")
    parser.add_argument(
        "--max-bytes", metavar="SIZE", help="of all tables together, such as 8GB; default: 9/10 of what is free"
    )
    parser.add_argument(
        "--manifest-every", metavar="SECONDS", help="what a power cut may lose, in a DIR on a disk; default: 10"
    )
    parser.add_argument("--metrics-port", metavar="PORT", help="answer Prometheus there, at /metrics")
    parser.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST", help="on that address; default: loopback"
    )


def serve(arguments: argparse.Namespace) -> int:
    """Serve tables until SIGTERM or Ctrl-C. Returns the exit code."""
    options = read(arguments)
    from replay_server.data_dir import DataDir
    from replay_server.main import run

    place = options.place
    data_dir = None if place.path is None else DataDir(place.path, durable=place.durable)
    print(place.text, flush=True)
    return run(
        options.listen,
        sockets=options.sockets,
        data_dir=data_dir,
        max_bytes=options.max_bytes,
        manifest_every_s=options.manifest_every_s,
        metrics_port=options.metrics_port,
        metrics_host=options.metrics_host,
        security=from_environment(),
    )


def verify(folder: Path) -> int:
    """Check every table of a data directory and print what was found. Returns the exit code."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give the DIR of `shoal replay --data-dir DIR`")
    from replay_server.verify import run

    lines, code = run(folder)
    print("\n".join(lines), flush=True)
    return code


def read(arguments: argparse.Namespace) -> Options:
    """The options. Raises ConfigError with every problem."""
    problems = list(_address_problems(arguments.listen, arguments.socket))
    max_bytes = _try(size_bytes, arguments.max_bytes, problems)
    every_s = _try(_seconds, arguments.manifest_every, problems)
    metrics_port = _try(_port, arguments.metrics_port, problems)
    place = _place(arguments, problems)
    if every_s is not None and place is not None and not place.durable:
        problems.append(
            f"--manifest-every {arguments.manifest_every}: tables in memory have no manifests; "
            "give --data-dir a folder on a disk too, or leave it out"
        )
    ConfigError.raise_if(problems)
    if place is None:
        raise ConfigError("there is no place for the tables")
    every_s = MANIFEST_EVERY_S if every_s is None else every_s
    host = arguments.metrics_host
    return Options(arguments.listen, arguments.socket, place, max_bytes, every_s, metrics_port, host)


def _place(arguments: argparse.Namespace, problems: list[str]) -> Place | None:
    given = arguments.data_dir
    if given is not None and not given.strip():
        problems.append(f"--data-dir: must name a folder, or be {MEMORY}")
        return None
    if given not in (None, MEMORY):
        there = data_place.existing(Path(given))
        if not there.is_dir():
            problems.append(f"--data-dir {given}: {there} is a file; give a folder, which is made where it is missing")
            return None
        if not os.access(there, os.W_OK | os.X_OK):
            problems.append(f"--data-dir {given}: {there} cannot be written to; give another folder")
            return None
    try:
        return data_place.chosen(given, arguments.listen or ":0", arguments.socket)
    except OSError as error:
        problems.append(f"--data-dir {given}: cannot be used ({error.strerror}); give another folder")
        return None


def _address_problems(listen: str | None, sockets: list[str]) -> Iterator[str]:
    if listen is None:
        yield "--listen HOST:PORT is needed; 127.0.0.1:7401 serves this machine alone"
    elif listen.startswith("unix:"):
        sockets = [listen.removeprefix("unix:"), *sockets]
    elif not is_host_port(listen):
        yield f"--listen {listen}: must be HOST:PORT with a port from 0 to {MAX_PORT}, or unix:PATH"
    for path in sockets:
        length = len(os.fsencode(path))
        if not 0 < length <= MAX_SOCKET_PATH_BYTES:
            yield f"--socket {path}: a socket's path has 1 to {MAX_SOCKET_PATH_BYTES} bytes, not {length}; use /tmp"


def _try(read_one: Callable[[str], T], text: str | None, problems: list[str]) -> T | None:
    if text is None:
        return None
    try:
        return read_one(text)
    except ValueError as error:
        problems.append(str(error))
        return None


def size_bytes(text: str) -> int:
    """8GB, 500MiB, 1048576. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    unit = (match[2] or "").upper() if match else ""
    size = int(float(match[1]) * (1024 if unit.endswith("I") else 1000) ** _POWERS[unit[:1]]) if match else 0
    if size < 1:
        raise ValueError(f"--max-bytes {text}: must be a size such as 8GB, 500MiB or 1048576")
    return size


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.05 <= seconds <= 86_400:
        raise ValueError(f"--manifest-every {text}: must be seconds from 0.05 to 86400")
    return seconds


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
        raise ValueError(f"--metrics-port {text}: must be a port from 0 to 65535; 0 takes a free one")
    return int(text)
