"""The launcher's unix sockets: a private folder for a run, and the removal of those that killed launchers left."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DeadlineError, ShoalError, UnavailableError

PREFIX = "shoal-"
LEARNER, REPLAY = "learner.sock", "replay.sock"
MAX_SOCKET_PATH_BYTES = 100
STALE_AFTER_S, EMPTY_AFTER_S = 60.0, 3600.0


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A private folder whose path leaves room for a socket's name: the kernel takes 107 bytes in all."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) + len(f"/{PREFIX}12345678/{LEARNER}") > MAX_SOCKET_PATH_BYTES:
        base = "/tmp"  # nosec B108 # a private folder is made in it
    remove_stale(Path(base))
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def remove_stale(base: Path) -> None:
    """Remove our own socket folders of killed launchers: at least a minute old, with sockets that nobody listens on.

    An empty one may be that of a launcher whose learner takes its time: it goes after an hour.
    """
    for folder in base.glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):
            status = folder.stat(follow_symlinks=False)
            age_s = time.time() - status.st_mtime
            if age_s > STALE_AFTER_S and status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode):
                sockets = list(folder.iterdir())
                if (sockets or age_s > EMPTY_AFTER_S) and all(
                    path.suffix == ".sock" and _is_dead(path) for path in sockets
                ):
                    for path in sockets:
                        path.unlink()
                    folder.rmdir()


def answers(path: Path, timeout_s: float = 2.0) -> bool:
    """Whether the learner or the replay server that listens there says anything at all, if only that it may not.

    One that hangs does not.
    """
    from core import rpc  # late: where all goes well nobody asks
    from protos import experience_pb2, learner_pb2

    calls: list[tuple[Any, Any, Any]] = [
        (learner_pb2, learner_pb2.LearnerInfoRequest(), learner_pb2.LearnerInfoReply),
        (experience_pb2, experience_pb2.InfoRequest(), experience_pb2.InfoReply),
    ]
    service, request, reply = calls[path.name != LEARNER]
    (descriptor,) = service.DESCRIPTOR.services_by_name.values()
    with rpc.open_channel(f"unix:{path}") as channel:
        try:
            rpc.Client(channel, descriptor, path.stem).unary("Info", request, reply, timeout_s)
        except (UnavailableError, DeadlineError) as error:
            return "as many calls" in str(error)  # it has no room for one more
        except ShoalError:
            return True
    return True


def _is_dead(path: Path) -> bool:
    """Whether this is a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return path.is_socket()
        except OSError:
            return False
    return False
