"""Runs the contestants of a heat in turn, each as a command of its own, and keeps what they said."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory import Watcher

ROOT = Path(__file__).resolve().parent.parent
"""The repository; every command runs in it."""
TIMEOUT_S = 180.0

Result = Mapping[str, Any]
"""The figures of one run; `error` alone where it failed."""
Results = Mapping[str, Sequence[Result]]
"""Contestant -> its runs in order, seeds 1, 2, ..."""


@dataclass(frozen=True)
class Contestant:
    """One command that is measured. `command(seed, folder)`; `read(folder, log)` gives its figures."""

    name: str
    command: Callable[[int, Path], Sequence[str]]
    read: Callable[[Path, Path], Result]
    watch: bool = False
    """Note the peak memory of its processes."""
    once: bool = False
    """One run says it all."""
    timeout_s: float | None = None
    """None: TIMEOUT_S."""


def interleaved(
    heat: Sequence[Contestant],
    wanted: Collection[str],
    repeats: int,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, list[Result]]:
    """First run of each, second run of each, ...; seeds are 1 to `repeats`."""
    results: dict[str, list[Result]] = {}
    for seed in range(1, repeats + 1):
        for contestant in heat:
            if contestant.name in wanted and (seed == 1 or not contestant.once):
                result = run(contestant, seed, folder)
                results.setdefault(contestant.name, []).append(result)
                say(f"{contestant.name}, run {seed}: {in_short(result)}")
    return results


def run(contestant: Contestant, seed: int, folder: Path) -> Result:
    """One run, its output in `folder`. A command that fails, or is not over in time, gives an `error`."""
    place = folder / contestant.name.replace(" ", "-") / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    log = place / "output.log"
    command = list(contestant.command(seed, place))
    start_unix_s = time.time()
    code, memory = execute(command, log, contestant.timeout_s or TIMEOUT_S, contestant.watch)
    if code != 0:
        how = "did not end in time" if code is None else f"ended with exit code {code}"
        return {"error": f"{how}: {shlex.join(command)} (output: {log})"}
    try:
        figures = contestant.read(place, log)
    except (OSError, ValueError, KeyError, IndexError) as error:
        return {"error": f"no figures from {shlex.join(command)}: {error!r} (output: {log})"}
    shown = shlex.join("python" if part == sys.executable else part.replace(f"{ROOT}{os.sep}", "") for part in command)
    return {"seed": seed, "command": shown, "start_unix_s": start_unix_s, **figures, **memory}


def execute(
    command: Sequence[str], log: Path, timeout_s: float, watch: bool = False
) -> tuple[int | None, Mapping[str, Any]]:
    """Exit code, None if it was not over in time, and peak memory by role. Nothing that it started is left."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    watcher = Watcher(process.pid) if watch else None
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end(process)
        memory = {} if watcher is None else {"peak_mb": watcher.stop()}
    return code, memory


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what a peer leaves behind
    except (ProcessLookupError, PermissionError):
        return


def last_json(log: Path) -> Result:
    """The last line of a log that is a JSON object. Raises ValueError where there is none."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            found: Result = json.loads(line)
            return found
    raise ValueError("no line of JSON was printed")


def in_short(result: Result) -> str:
    """One run in a few words."""
    shown = ("error", "env_steps_per_s", "solved_at_env_steps", "peak_mb", "per_s", "inserted_per_s", "restart_s")
    return ", ".join(f"{name} {result[name]}" for name in shown if result.get(name) is not None) or "never solved"
