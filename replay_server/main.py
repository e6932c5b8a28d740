"""The replay server's process: one event loop, the Experience service, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from core import rpc_server
from core.errors import ReplayError
from core.http import MetricsServer
from core.metrics import Metrics
from core.security import OPEN, Security
from protos import experience_pb2 as pb
from replay_server.data_dir import DataDir
from replay_server.exporter import Exporter
from replay_server.hosting import Hosted
from replay_server.replay import ReplayTable
from replay_server.room import free_bytes
from replay_server.service import ExperienceService

RECEIVE_BYTES = 8 << 20
"""Of one message; chunks and priorities are far smaller."""
STOP_GRACE_S = 0.5
EXPORT_EVERY_S = 2.5
"""Half of what deploy/prometheus reads at: a server with little to do must not do that only."""
MARK_EVERY_S = 0.01
"""A table on a disk lets an eighth of its ring be written meanwhile."""
logger = logging.getLogger(__name__)


class _Repeating:
    """Does `work` every `every_s`. What the operating system refuses (no disk, no files) is said, and tried again."""

    def __init__(self, what: str, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        self._what, self._work, self._every_s = what, work, every_s
        self._failure = ""

    async def run(self) -> None:
        while True:
            try:
                await self._work()
                self._failure = ""
            except (OSError, ReplayError) as error:
                if str(error) != self._failure:
                    logger.error("%s: %s; it is tried again every %g s", self._what, error, self._every_s)
                self._failure = str(error)
            await asyncio.sleep(self._every_s)


async def _each(service: ExperienceService, work: Callable[[Hosted[ReplayTable]], Awaitable[object]]) -> None:
    """Of all tables, one after the other; the first failure is raised when all had their turn."""
    failures = []
    for hosted in service.replay_tables():
        try:
            await work(hosted)
        except (OSError, ReplayError) as error:
            if any(hosted.name == other.name for other in service.replay_tables()):  # else it was dropped meanwhile
                failures.append(error)
    if failures:
        raise failures[0]


def _repeating(
    service: ExperienceService, metrics: Metrics, data_dir: DataDir | None, manifest_every_s: float | None
) -> Iterator[_Repeating]:
    exporter = Exporter(service, metrics, None if data_dir is None else data_dir.path)

    async def export_all() -> None:
        exporter.tell()

    async def write_manifests() -> None:
        await _each(service, lambda hosted: service.write_manifest(hosted.name, None))

    async def move_marks() -> None:
        await _each(service, service.move_mark)

    yield _Repeating("the metrics are not taken", export_all, EXPORT_EVERY_S)
    if manifest_every_s is not None:
        yield _Repeating("there is no newer manifest", write_manifests, manifest_every_s)
        yield _Repeating("inserts will wait for the disk", move_marks, MARK_EVERY_S)


def run(
    listen: str,
    *,
    sockets: Sequence[str] = (),
    data_dir: DataDir | None = None,
    max_bytes: int | None = None,
    manifest_every_s: float = 10.0,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
    security: Security = OPEN,
) -> int:
    """Serve at HOST:PORT and at unix sockets. Returns the exit code. Raises ConfigError where a port is taken.

    Tables live in `data_dir`, or in memory that ends with this process; together they have at most `max_bytes`, by
    default nine tenths of what is free there now. Where the directory is durable, a manifest is written every
    `manifest_every_s`: what a power cut loses is newer.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a connection each
    addresses = [listen, *(f"unix:{path}" for path in sockets)]
    service = ExperienceService(data_dir=data_dir, max_bytes=max_bytes)
    with contextlib.ExitStack() as stack:
        if data_dir is not None:
            stack.callback(data_dir.close)
        service.recover()
        if max_bytes is None:
            service.leave_free(free_bytes(data_dir))
        metrics = Metrics()
        if metrics_port is not None:
            server = MetricsServer(metrics, metrics_port, metrics_host, lambda: _why_not_ready(service))
            stack.callback(server.close)
        every_s = manifest_every_s if data_dir is not None and data_dir.durable else None
        repeating = list(_repeating(service, metrics, data_dir, every_s))
        return asyncio.run(_serve(service, addresses, repeating, security))


def _why_not_ready(service: ExperienceService) -> str | None:
    return None if service.addresses else "it does not listen yet"


async def _serve(
    service: ExperienceService,
    addresses: Sequence[str],
    repeating: Sequence[_Repeating],
    security: Security,
) -> int:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def no_memory(error: MemoryError) -> None:
        if not failed.done():
            failed.set_exception(error)

    server = rpc_server.new_server(RECEIVE_BYTES)
    rpc_server.add_service(server, pb.DESCRIPTOR.services_by_name["Experience"], service, security, no_memory)
    service.addresses = [rpc_server.bind(server, address, security) for address in addresses]
    await server.start()
    print(f"replay server listens on {', '.join(service.addresses)}", flush=True)
    tasks = [asyncio.create_task(work.run()) for work in repeating]
    stopping = asyncio.create_task(stop.wait())
    others: set[asyncio.Future[Any]] = {stopping, failed, *tasks}
    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    ended: list[asyncio.Future[None]] = [failed, *tasks]
    for task in ended:
        if task.done():
            task.result()  # raises what ended it
        task.cancel()
    service.close()
    await server.stop(STOP_GRACE_S)
    for hosted in service.replay_tables():
        hosted.table.close()
    return 0
