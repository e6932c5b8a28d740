"""The replay server's process: one event loop, the Experience service, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

from core import rpc
from protos import experience_pb2 as pb
from replay_server.service import ExperienceService

STOP_GRACE_S = 0.5
logger = logging.getLogger(__name__)


def run(listen: str, *, sockets: Sequence[str] = ()) -> int:
    """Serve at HOST:PORT and at unix sockets. Returns the exit code. Raises ConfigError where a port is taken."""
    return asyncio.run(_serve([listen, *(f"unix:{path}" for path in sockets)]))


async def _serve(addresses: Sequence[str]) -> int:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server, service = rpc.new_server(), ExperienceService()
    rpc.add_service(server, pb.DESCRIPTOR.services_by_name["Experience"], service)
    service.addresses = [rpc.bind(server, address) for address in addresses]
    await server.start()
    print(f"replay server listens on {', '.join(service.addresses)}", flush=True)
    await stop.wait()
    service.close()
    await server.stop(STOP_GRACE_S)
    return 0
