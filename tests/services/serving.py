"""Real servers for tests: a grpc.aio server at a unix socket, its loop in a thread, and waiting without sleeping."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from core import rpc, rpc_server
from core.security import Security
from learner.background import LoopThread

DEADLINE_S = 10.0


def wait_until(ready: Callable[[], object], what: str) -> None:
    """Return when `ready()`; fail after a deadline that no healthy test comes near."""
    never = threading.Event()
    for _ in range(int(DEADLINE_S * 1000)):
        if ready():
            return
        never.wait(0.001)
    raise TimeoutError(f"{what}: not within {DEADLINE_S} s")


class Serving:
    """Starts and stops servers at one address; what a servicer does runs on the loop's thread."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder / 's'}"
        self.loop = LoopThread()
        self._server: grpc.aio.Server | None = None
        self._others: list[grpc.aio.Server] = []
        self._channels: list[rpc.Channel] = []

    def start(self, service: ServiceDescriptor, servicer: object, max_message_bytes: int = 64 << 20) -> None:
        """Serve; a server that was stopped may be started again."""

        async def start() -> None:
            server = rpc_server.new_server(max_message_bytes)
            rpc_server.add_service(server, service, servicer)
            rpc_server.bind(server, self.address)
            await server.start()
            self._server = server

        self.loop.call(start(), DEADLINE_S)

    def listen(self, service: ServiceDescriptor, servicer: object, security: Security, address: str) -> str:
        """Serve at another address, until `close`; returns it with its port."""

        async def begin() -> str:
            server = rpc_server.new_server()
            rpc_server.add_service(server, service, servicer, security)
            bound = rpc_server.bind(server, address, security)
            await server.start()
            self._others.append(server)
            return bound

        return self.loop.call(begin(), DEADLINE_S)

    def stop(self) -> None:
        """End every call and stop listening."""
        server, self._server = self._server, None
        if server is not None:
            self.loop.call(server.stop(None), DEADLINE_S)

    def channel(self) -> rpc.Channel:
        """A channel of this address, closed at the end."""
        self._channels.append(rpc.open_channel(self.address))
        return self._channels[-1]

    def on_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the loop's thread and wait for its result."""

        async def call() -> Any:
            return function(*arguments)

        return self.loop.call(call(), DEADLINE_S)

    def close(self) -> None:
        """Stop everything."""
        for channel in self._channels:
            channel.close()
        self.stop()
        for server in self._others:
            self.loop.call(server.stop(None), DEADLINE_S)
        self.loop.close()
