"""Where a run keeps its files, and the rules for using a folder that is already there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.errors import ConfigError

OWN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "learning_curve.png",
    "checkpoints/*/tensors.safetensors",
    "checkpoints/*/meta.json",
    "tensorboard/**/events.out.tfevents.*",
    "logs/*.log",
    "logs/needs-replay",
    "logs/replay-folder",
    "logs/ray-*",
    "videos/*.gif",
)
"""Patterns of all that Shoal writes into a run directory."""
OWN_FOLDERS = ("checkpoints", "tensorboard", "logs", "videos")
SIGNS_OF_A_RUN = ("config.yaml", "metrics.jsonl", "summary.json", "checkpoints/*")


@dataclass(frozen=True)
class RunDir:
    """The paths inside one run directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole configuration, as the run was started."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """What `--resume`, `shoal eval` and `shoal.load` read."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The learner's event files."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, written by the learner about once a second."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """What came of the run."""
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.path / "logs"

    @property
    def learning_curve(self) -> Path:
        """The returns against env steps, drawn at the end."""
        return self.path / "learning_curve.png"

    @property
    def videos(self) -> Path:
        """What `shoal eval --video` wrote."""
        return self.path / "videos"

    @property
    def lock(self) -> Path:
        """Locked, with the number of the process inside, while a run uses the folder."""
        return self.path / ".lock"

    @property
    def replay_folder(self) -> Path:
        """Says where in memory this run's replay tables are, while it lasts."""
        return self.logs / "replay-folder"

    @property
    def needs_replay(self) -> Path:
        """Made by a learner whose plan has a replay table: the launcher then starts a replay server."""
        return self.logs / "needs-replay"

    @property
    def ray_run(self) -> Path:
        """Which cluster, and which manager on it, a run on Ray has."""
        return self.logs / "ray-run.json"

    @property
    def ray_events(self) -> Path:
        """What happened to a run on Ray, an object a line, for its driver and a manager that comes back."""
        return self.logs / "ray-events.jsonl"

    @property
    def ray_token(self) -> Path:
        """The token of a run on Ray, for `shoal status` and actors from elsewhere."""
        return self.logs / "ray-token"

    def holds_a_run(self) -> bool:
        """Whether a run was started here before."""
        return any(True for pattern in SIGNS_OF_A_RUN for _ in self.path.glob(pattern))


def default_path(algorithm: str, env: str, seed: int) -> Path:
    """runs/<algorithm>-<env>-<seed>-<YYYYmmdd-HHMMSS>, with what no file name should have replaced by `_`."""
    name = f"{algorithm}-{env}-{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    return Path("runs") / re.sub(r"[^\w.+-]", "_", name)


def prepare(path: Path, *, resume: bool = False, overwrite: bool = False) -> RunDir:
    """Make `path` ready for a run: create it, or take up (`resume`) or remove (`overwrite`) the run inside.

    The folder is this process's own until `release`, or until the process ends, however it does. Raises ConfigError
    where that cannot be done; nothing has been removed then.
    """
    run = RunDir(path)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other: continue the run, or remove it and start anew")
    if resume and not run.config.is_file():
        raise ConfigError(f"nothing to resume: {path} holds no run (no config.yaml); leave --resume out to start one")
    if not resume and not overwrite and run.holds_a_run():
        raise ConfigError(
            f"{path} already holds a run: give --resume to continue it, --overwrite to remove it and start anew, "
            "or another --run-dir"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run directory {path} cannot be used: it is a file; choose another --run-dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_writable(path)
        _hold(run)
        if overwrite:
            remove_run(run)
        run.needs_replay.unlink(missing_ok=True)
        for folder in (run.checkpoints, run.tensorboard, run.logs):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        release(run)
        where = error.filename or path
        raise ConfigError(
            f"run directory {path} cannot be used: {error.strerror} ({where}); choose another --run-dir"
        ) from None
    return run


_held: dict[RunDir, int] = {}
"""Descriptors of the locked files. Children do not inherit them."""


def _hold(run: RunDir) -> None:
    """Lock the folder. Raises ConfigError where a run has it; file systems without locks are taken as they are."""
    while True:
        descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"run directory {run.path}: a run is using it (pid {pid or 'unknown'}); "
                "stop it first or choose another --run-dir"
            ) from None
        except OSError:
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(run.lock)):
                break
        os.close(descriptor)  # its holder has just removed it
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    _held[run] = descriptor


def release(run: RunDir) -> None:
    """The folder may be used by others from here on. No effect where this process does not hold it."""
    descriptor = _held.pop(run, None)
    if descriptor is not None:
        run.lock.unlink(missing_ok=True)
        os.close(descriptor)


def remove_run(run: RunDir) -> None:
    """Remove what Shoal made in `run` and leave every other file of the folder alone."""
    for pattern in OWN_FILES:
        for file in run.path.glob(pattern):
            file.unlink()
    for name in OWN_FOLDERS:
        _remove_empty(run.path / name)


def _remove_empty(folder: Path) -> None:
    """Remove `folder` and those inside it, as far as they hold no file."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for inner in folder.iterdir():
        _remove_empty(inner)
    if not any(folder.iterdir()):
        folder.rmdir()


def _check_writable(path: Path) -> None:
    """Raise the OSError that a write would meet (root and read-only mounts included)."""
    probe = path / f".shoal-{os.getpid()}"
    probe.touch()
    probe.unlink()
