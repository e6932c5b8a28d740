"""A TCP proxy that can be slow, late, silent (a half-open connection, a partition) or cut, while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

PIECE_BYTES = 16 << 10


class Proxy:
    """Passes connections to 127.0.0.1:`target` on, in a thread of its own. All may be changed at any moment."""

    def __init__(self, target: int) -> None:
        self.target = target
        """Where new connections lead."""
        self.delay_s = 0.0
        """Before each piece is passed on."""
        self.bytes_per_s: float | None = None
        self._open = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(self._start())
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    async def _start(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def partition(self, on: bool) -> None:
        """Pass nothing on, in either direction, and close nothing: neither end is told."""

        async def change() -> None:
            (self._open.clear if on else self._open.set)()

        self._call(change())

    def cut(self) -> None:
        """Close all connections at once; new ones are taken."""

        async def close() -> None:
            for writer in list(self._connections):
                writer.transport.abort()

        self._call(close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        await self._open.wait()
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            for source, sink in ((reader, back), (there, writer)):
                self._connections.add(sink)
                task = asyncio.create_task(self._pass_on(source, sink))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._open.wait()
                pause_s = self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0.0)
                if pause_s:
                    await asyncio.sleep(pause_s)
                sink.write(data)
                await sink.drain()
        self._connections.discard(sink)
        sink.close()

    def close(self) -> None:
        """End everything."""

        async def end() -> None:
            self._server.close()
            waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for writer in list(self._connections):
                writer.transport.abort()
            await asyncio.sleep(0)  # the transports close their sockets in the next turn
            await asyncio.sleep(0)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()
