"""Where replay tables are kept: a folder on a file system in memory by default, or where the user says.

Files of /dev/shm belong to no process: they outlive a replay server that is killed, and a reboot ends them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")  # nosec B108 # a private folder is made in it
MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
MEMORY = "memory"
"""What `--data-dir` calls the memory of the server's own process."""
LEAST_FREE_BYTES = 128 << 20
"""A /dev/shm with less left is not used unless it is asked for: docker's has 64 MiB in all."""
_RUN = "run-"


@dataclass(frozen=True)
class Place:
    """A folder for tables, or None for the memory of the process; and what survives what, in words."""

    path: Path | None
    durable: bool
    text: str


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system that `path`, which need not exist yet, is on; "" where that cannot be told."""
    device = existing(path).stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            fields, _, kind = line.partition(" - ")
            if fields.split()[2] == name:
                return kind.split()[0]
    return ""


def chosen(data_dir: str | None, listen: str, sockets: list[str]) -> Place:
    """The place that `--data-dir` names, or the default one. Raises OSError where a folder cannot be looked at."""
    if data_dir is None:
        return _default(listen, sockets)
    if data_dir == MEMORY:
        return _in_process("as --data-dir says")
    path = Path(data_dir)
    return _folder(path, durable=file_system(path) not in IN_MEMORY)


def _default(listen: str, sockets: list[str]) -> Place:
    name = _name_of(listen, sockets)
    if name is None:
        return _in_process("nobody finds port 0 again, it is another each time; --data-dir DIR keeps them")
    base = own_folder()
    if isinstance(base, str):
        return _in_process(f"{base}; --data-dir DIR keeps them")
    return _folder(base / f"replay-{name}", durable=False)


def _name_of(listen: str, sockets: list[str]) -> str | None:
    """What a server at these addresses is called each time it is started; None where it has no lasting address."""
    for address in (listen, *(f"unix:{path}" for path in sockets)):
        if address.startswith("unix:"):
            path = os.path.abspath(address.removeprefix("unix:"))
            return re.sub(r"[^\w.-]+", "-", path).strip("-.")[-150:]
        port = address.rpartition(":")[2]
        if port != "0":
            return port
    return None


def _folder(path: Path, *, durable: bool) -> Place:
    kind = "on disk" if durable else "in memory"
    free = size_text(free_bytes(path))
    kept = f"tables are kept in {path} ({kind}, {free} free) and outlive this process, kill -9 too"
    if durable:
        return Place(path, True, f"{kept}; a power cut loses what is newer than the last manifest")
    return Place(path, False, f"{kept}, but no reboot (--data-dir DIR on a disk does)")


def _in_process(why: str) -> Place:
    return Place(None, False, f"tables are kept in this process's memory and end with it: {why}")


def own_folder(shm: Path = SHM) -> Path | str:
    """This user's folder in /dev/shm, or why there is none to be had."""
    if not shm.is_dir() or file_system(shm) not in IN_MEMORY or not os.access(shm, os.W_OK | os.X_OK):
        return f"{shm} is no writable tmpfs"
    if free_bytes(shm) < LEAST_FREE_BYTES:
        return f"{shm} has {size_text(free_bytes(shm))} free"
    folder = shm / f"shoal-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        return f"{folder} cannot be used ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return f"{folder} is somebody else's"
    return folder


def free_bytes(path: Path) -> int:
    """What may still be written to the file system of `path`."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def size_text(nbytes: float) -> str:
    """A size for people: 12.3 GiB."""
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    power = min(4, (int(nbytes).bit_length() - 1) // 10)
    return f"{nbytes / 1024**power:.1f} {' KMGT'[power]}iB"


# ---------------------------------------------------------------------------------------------------- the launcher's


@contextlib.contextmanager
def run_folder(shm: Path = SHM, former: Path | None = None) -> Iterator[Path | None]:
    """A private folder in memory for one run's tables, gone at its end; None where there is no room for one.

    A run that goes on after its launcher was killed has its `former` one again, if that is still there.
    """
    base = own_folder(shm)
    if isinstance(base, str):
        yield None
        return
    with _only_one(base):
        held = None if former is None or former.parent != base else _hold(former)
        folder = former if former is not None and held is not None else Path(tempfile.mkdtemp(prefix=_RUN, dir=base))
        held = _hold(folder) if held is None else held
        _sweep(base)
    if held is None:
        raise OSError(f"{folder} was made just now and is somebody else's")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep(shm: Path = SHM) -> None:
    """Remove the folders of runs whose launcher was killed: they hold memory."""
    base = shm / f"shoal-{os.getuid()}"
    if base.is_dir() and not base.is_symlink() and base.stat().st_uid == os.getuid():
        with contextlib.suppress(OSError), _only_one(base):
            _sweep(base)


def _sweep(base: Path) -> None:
    """A lock that the kernel lets go with its process: ids of processes mean little where containers share /dev/shm."""
    for folder in base.glob(f"{_RUN}*"):
        held = _hold(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """The descriptor that keeps a run's folder from being swept; None where it is another's, or not there."""
    held = None
    try:
        held = os.open(folder / "owner", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if held is not None:
            os.close(held)
        return None
    return held


@contextlib.contextmanager
def _only_one(base: Path) -> Iterator[None]:
    """One launcher at a time makes and removes folders."""
    held = os.open(base / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def tables_in(path: Path) -> list[str]:
    """Names of the tables that a data directory holds."""
    return sorted(file.parent.name for file in path.glob("*/definition.json"))
