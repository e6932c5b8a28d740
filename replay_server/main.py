"""The replay server's process: one event loop, the Experience service, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence

from core import rpc
from core.http import MetricsServer
from core.metrics import Metrics
from protos import experience_pb2 as pb
from replay_server.data_dir import DataDir
from replay_server.exporter import export
from replay_server.service import ExperienceService

STOP_GRACE_S = 0.5
EXPORT_EVERY_S = 1.0
MARK_EVERY_S = 0.01
"""A table on a disk lets an eighth of its ring be written meanwhile."""
logger = logging.getLogger(__name__)


async def _export(service: ExperienceService, metrics: Metrics) -> None:
    while True:
        export(service, metrics)
        await asyncio.sleep(EXPORT_EVERY_S)


async def _keep_manifests(service: ExperienceService, every_s: float) -> None:
    """A manifest of every table every `every_s`."""
    while True:
        await asyncio.sleep(every_s)
        for hosted in service.replay_tables():
            await service.write_manifest(hosted, None)


async def _keep_marks(service: ExperienceService) -> None:
    """Ahead of what the rings write."""
    while True:
        await asyncio.sleep(MARK_EVERY_S)
        for hosted in service.replay_tables():
            await service.move_mark(hosted)


def run(
    listen: str,
    *,
    sockets: Sequence[str] = (),
    data_dir: DataDir | None = None,
    max_bytes: int | None = None,
    manifest_every_s: float = 10.0,
    metrics_port: int | None = None,
) -> int:
    """Serve at HOST:PORT and at unix sockets. Returns the exit code. Raises ConfigError where a port is taken.

    Tables live in `data_dir`, or in memory that ends with this process; together they have at most `max_bytes`. Where
    the directory is durable, a manifest is written every `manifest_every_s`: what a power cut loses is newer.
    """
    addresses = [listen, *(f"unix:{path}" for path in sockets)]
    service = ExperienceService(data_dir=data_dir, max_bytes=max_bytes)
    with contextlib.ExitStack() as stack:
        if data_dir is not None:
            stack.callback(data_dir.close)
        service.recover()
        metrics = Metrics()
        if metrics_port is not None:
            stack.callback(MetricsServer(metrics, metrics_port).close)
        every_s = manifest_every_s if data_dir is not None and data_dir.durable else None
        return asyncio.run(_serve(service, addresses, metrics, every_s))


async def _serve(
    service: ExperienceService, addresses: Sequence[str], metrics: Metrics, manifest_every_s: float | None
) -> int:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = rpc.new_server()
    rpc.add_service(server, pb.DESCRIPTOR.services_by_name["Experience"], service)
    service.addresses = [rpc.bind(server, address) for address in addresses]
    await server.start()
    print(f"replay server listens on {', '.join(service.addresses)}", flush=True)
    tasks = [asyncio.create_task(_export(service, metrics))]
    if manifest_every_s is not None:
        tasks.append(asyncio.create_task(_keep_manifests(service, manifest_every_s)))
        tasks.append(asyncio.create_task(_keep_marks(service)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # raises what ended it
        task.cancel()
    service.close()
    await server.stop(STOP_GRACE_S)
    for hosted in service.replay_tables():
        hosted.table.close()
    return 0
