"""A channel that loses, doubles and swaps messages and breaks: a proxy in front of the real service."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np

from core import rpc_server
from core.errors import UnavailableError
from core.framing import unframe
from protos import experience_pb2 as pb
from replay_server.service import ExperienceService

SILENCE_S = 0.2
"""When what was lost or held back is followed by nothing, the channel breaks, as a half-open one does."""


class FaultyInserts:
    """An Experience service whose Insert calls go to another one, badly. `faults` counts what was done to them."""

    def __init__(self, service: ExperienceService, rng: np.random.Generator, chance: float) -> None:
        self._service, self._rng, self.chance = service, rng, chance
        self.faults: Counter[str] = Counter()
        for name in ("EnsureTable", "DropTable", "Sample", "Info", "Checkpoint", "Rollback"):
            setattr(self, name, getattr(service, name))

    def _happens(self, fault: str) -> bool:
        if self._rng.random() >= self.chance:
            return False
        self.faults[fault] += 1
        return True

    @rpc_server.framed
    async def Insert(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[pb.InsertReply]:
        async with aclosing(self._service.Insert(self._requests(requests), context)) as replies:
            yield await anext(replies)  # opened
            held: pb.InsertReply | None = None
            lost = False
            while True:
                try:
                    reply = await asyncio.wait_for(anext(replies), SILENCE_S if lost or held else None)
                except (TimeoutError, StopAsyncIteration):
                    raise UnavailableError("the channel broke") from None
                if self._happens("a break behind an insert, before its ack"):
                    raise UnavailableError("the channel broke")
                if self._happens("a lost ack"):
                    lost = True
                elif held is None and self._happens("an ack behind its next"):
                    held = reply
                else:
                    yield reply
                    if self._happens("a doubled ack"):
                        yield reply
                    if held is not None:
                        yield held
                    held, lost = None, False

    async def _requests(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield await anext(requests)  # open
        before: bytes | None = None
        async for data in requests:
            if self._happens("a break before an insert"):
                return
            yield data
            chunks = unframe(pb.InsertRequest, data).message.chunks
            if not chunks or any(chunk.parts > 1 for chunk in chunks):
                continue
            if before is not None and self._happens("an old insert behind a new one"):
                yield before
            if self._happens("a doubled insert"):
                yield data
            before = data
