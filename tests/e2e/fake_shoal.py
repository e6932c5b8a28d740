"""A stand-in for the three programs, without torch: `fake_shoal.py SCENARIO learner|actor|replay ...`.

The fake learner conducts: actors connect to its unix socket and do the one word that they are sent. With `launch` in
place of a scenario this is the real `shoal train`, whose children are fakes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import shoal.data_place
import shoal.launch
from core import config, yaml12
from core.errors import ConfigError, EnvironmentFailedError, ShoalError
from shoal.cli import main, parse
from shoal.processes import Children
from shoal.supervised import end_with_parent

KILLS = {"replay": 0, "replay-waiting": 0, "replay-killed": 2, "replay-hopeless": 99}


class Stopped(Exception):
    """SIGTERM came."""


def serve(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    return server


def connect(address: str) -> socket.socket:
    while True:
        client = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            client.connect(address.removeprefix("unix:"))
            return client
        client.close()
        select.select([], [], [], 0.005)


def learner(scenario: str, arguments: Sequence[str]) -> None:
    given = parse(["learner", *arguments])
    run = Path(given.run_dir)
    actors = config.from_plain(yaml12.load((run / "config.yaml").read_text())).actors
    server = serve(given.socket[0])
    if scenario == "refused":
        (run / "metrics.jsonl").touch()
        raise ConfigError("ppo.gama: no such setting", "ppo.clip: must be more than 0, not -1")
    if scenario == "killed":
        print("page at http://localhost:7777/", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "bug":
        raise RuntimeError("a bug in the learner")
    if scenario.startswith("replay"):
        (run / "logs" / "needs-replay").touch()
        use_replay(given.replay_address, run / "logs" / "replays", KILLS[scenario])
    if scenario == "restart":
        tell(server, "raise")
    if scenario == "one-lost":
        tell(server, "refuse")
        actors -= 1
    if scenario == "hopeless":
        while True:
            tell(server, "raise")
    seats = [server.accept()[0] for _ in range(actors)]
    if scenario in ("waiting", "stubborn", "replay-waiting"):
        (run / "logs" / "ready").touch()
        signal.pause()
    for seat in seats:
        seat.sendall(b"finish\n")
    figures = {"env_steps": 100, "env_steps_per_s": 50.0, "wall_s": 2.0, "actors": actors, "version": 1, "updates": 4}
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "progress", "mean_return": 9.0, **figures}) + "\n")
    summary = {"algorithm": "ppo", "env": "CartPole-v1", "seed": 1, "restarts": 0, "eval_return": 9.5, **figures}
    (run / "summary.json").write_text(json.dumps(summary))


def use_replay(address: str, lives: Path, kills: int) -> None:
    """Note how it was started, and kill it so many times."""
    for life in range(kills + 1):
        line = ""
        while not line:  # the connection may still be the former one's
            with connect(address) as seat, contextlib.suppress(OSError):
                line = seat.makefile().readline()
        with lives.open("a") as file:
            file.write(line)
        if life < kills:
            os.kill(json.loads(line)["pid"], signal.SIGKILL)
            wait_for_end(json.loads(line)["pid"])


def wait_for_end(pid: int) -> None:
    """Until the launcher has seen it."""
    while Path(f"/proc/{pid}").exists():
        select.select([], [], [], 0.005)


def tell(server: socket.socket, word: str) -> None:
    seat, _ = server.accept()
    seat.sendall(f"{word}\n".encode())
    wait_for_end(int(seat.makefile().readline()))


def actor(arguments: Sequence[str]) -> None:
    address = parse(["actor", *arguments]).learner
    seat, word = connect(address), ""
    with contextlib.suppress(ConnectionError):  # the learner died: it is waited for
        word = seat.makefile().readline().strip()
        seat.sendall(f"{os.getpid()}\n".encode())
    if word == "raise":
        raise EnvironmentFailedError("environment 'Broken-v0' raised RuntimeError: boom (seed 7, last action 1)")
    if word == "refuse":
        raise ConfigError("this actor cannot make the environment")
    if word != "finish":
        signal.pause()


def replay(arguments: Sequence[str]) -> None:
    given = parse(["replay", *arguments])
    host, _, port = given.listen.rpartition(":")
    print(f"replay server listens on {host}:{port if int(port) else 7777}, unix:{given.socket[0]}", flush=True)
    if given.data_dir != "memory":
        with Path(given.data_dir, "lives").open("a") as lives:
            lives.write("one\n")
    server = serve(given.socket[0])
    while True:
        seat, _ = server.accept()
        told = {"pid": os.getpid(), "listen": given.listen, "data_dir": given.data_dir, "metrics": given.metrics_port}
        seat.sendall(f"{json.dumps(told)}\n".encode())


def stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


def play(scenario: str, role: str, arguments: Sequence[str]) -> int:
    if "--supervised" in arguments:
        end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if scenario == "stubborn" else stop)
    try:
        if role == "learner":
            learner(scenario, arguments)
        elif role == "actor":
            actor(arguments)
        else:
            replay(arguments)
    except Stopped:
        if role == "learner":
            (Path(parse(["learner", *arguments]).run_dir) / "logs" / "stopped").touch()
    except ShoalError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def launch(scenario: str, arguments: Sequence[str]) -> int:
    command = (sys.executable, __file__, scenario)
    setattr(shoal.data_place, "LEAST_FREE_BYTES", 0)  # noqa: B010 - the fakes' tables are small, as docker's /dev/shm is
    setattr(shoal.launch, "Children", functools.partial(Children, command))  # noqa: B010
    return main(["train", *arguments])


if __name__ == "__main__":
    _, scenario, role, *rest = sys.argv
    sys.exit(launch(scenario, rest) if role == "launch" else play(scenario, role, rest))
