"""Calls of the Experience service without a network: any bytes as messages, and what must hold afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from core import rpc, wire
from core.compression import Compressor
from core.errors import ShoalError
from core.framing import frame, unframe
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Array, Columns, UnrollHeader
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from replay_server.service import ExperienceService

T, B = 4, 3
SIGNATURE = Signature(
    {
        "obs": ColumnSpec(ArraySpec((600,), "float32"), extra_rows=1),  # large enough to be compressed
        "priority": ColumnSpec(ArraySpec((), "float32")),
        "valid": ColumnSpec(ArraySpec((), "uint8")),
    },
    T,
    B,
)
DEFINITION = ReplayDefinition("t", SIGNATURE, 400, 8, 2, 1, 0.0, 1, 2, 2, sampler="prioritised")
TABLES = [DEFINITION, replace(DEFINITION, name="staged", staged=True)]
PATIENCE_S = 0.05
"""How long a call may wait for what no other client brings; then its client hangs up."""


class Context:
    """Of a call."""

    def peer(self) -> str:
        return "fuzz"


class Target:
    """A service with a table for either mode, to throw bytes at."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.service = ExperienceService()
        for definition in TABLES:
            table = pb.TableDefinition(name=definition.name, settings=definition.pack())
            self.unary("EnsureTable", pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table))
        self.held_bytes = self._held()

    def _held(self) -> list[int]:
        return [int(hosted.table.stats().held_bytes) for hosted in self.service.replay_tables()]

    def unary(self, name: str, request: Any) -> Any:
        """Its answer, or the error of Shoal's that it ended with."""

        async def call() -> Any:
            try:
                return await getattr(self.service, name)(request, Context())
            except ShoalError as error:
                return error

        return self._loop.run_until_complete(call())

    def stream(
        self,
        name: str,
        messages: Sequence[bytes],
        patience_s: float = PATIENCE_S,
        *,
        hangs: bool = False,
        replies: list[pb.SampleReply] | None = None,
    ) -> ShoalError | None:
        """What ended the call; None: in order, or its client lost patience. Any other error is the fuzzer's find.

        A client that `hangs` sends nothing more, and does not say that it is done. `replies` of Sample are added.
        """
        call = self._stream(getattr(self.service, name), messages, patience_s, hangs, replies)
        return self._loop.run_until_complete(call)

    async def _stream(
        self,
        method: Callable[..., Any],
        messages: Sequence[bytes],
        patience_s: float,
        hangs: bool,
        replies: list[pb.SampleReply] | None,
    ) -> ShoalError | None:
        async def requests() -> AsyncIterator[bytes]:
            for message in messages:
                yield message
            if hangs:
                await asyncio.Event().wait()

        async def read() -> None:
            async for reply in method(requests(), Context()):
                if replies is not None:
                    replies.append(unframe(pb.SampleReply, reply).message)

        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await read()
        except ShoalError as error:
            return error
        return None

    def check(self) -> None:
        """Nothing of a call that is over is held, and the tables are as large as they were."""
        hosted = self.service.replay_tables()
        assert (self.service.streams, self.service.arriving.nbytes, self.service.leaving.nbytes) == (0, 0, 0)
        assert not any(h.arriving.line or h.arriving.nbytes or h.leaving.nbytes for h in hosted)
        assert [len(h.waiters()) for h in hosted] == [0, 0]
        for held, empty, h in zip(self._held(), self.held_bytes, hosted, strict=True):
            assert held <= empty + h.table.stats().staged * _ITEM_BYTES
        for h in hosted:
            ring = h.table.ring
            assert ring.head - ring.tail <= ring.layout.cells
            assert int(np.count_nonzero(ring.live)) == ring.items
            assert ring.priority is not None
            assert np.isfinite(ring.priority).all()
            assert (ring.priority >= 0).all()

    def close(self) -> None:
        """End the service."""
        self.service.close()
        self._loop.close()


_ITEM_BYTES = SIGNATURE.nbytes(T, B)


def unroll(rows: int = T, envs: int = B) -> dict[str, Array]:
    """One that is in order."""
    return {
        "obs": np.arange((rows + 1) * envs * 600, dtype=np.float32).reshape(rows + 1, envs, 600) // 50,
        "priority": np.ones((rows, envs), np.float32),
        "valid": np.ones((rows, envs), np.uint8),
    }


def opening(table: str = "t", slot: int = 0, incarnation: int = 1) -> bytes:
    opened = pb.InsertOpen(protocol=rpc.PROTOCOL, table=table, slot=slot, incarnation=incarnation)
    return pb.InsertRequest(open=opened).SerializeToString()


def chunk(seq: int = 1, compress: bool = False, **changes: Any) -> bytes:
    """A message of one chunk, an unroll in order but for `changes` of the chunk's fields."""
    payload = wire.encode(unroll(), Compressor() if compress else None)
    header = changes.get("header") or wire.header_to_proto(UnrollHeader(0, seq - 1, 0, T * B))
    fields = {"seq": seq, "parts": 1, "header": header, "payload_bytes": len(payload), **changes}
    return frame(pb.InsertRequest(chunks=[pb.Chunk(**fields)]), [payload])


def sample_opening(table: str = "t", **changes: Any) -> bytes:
    opened = pb.SampleOpen(**{"protocol": rpc.PROTOCOL, "table": table, "seed": 5, "headers": True, **changes})
    return pb.SampleRequest(open=opened).SerializeToString()


def draw(number: int = 0, batches: int = 1, priorities: bool = True, **changes: Any) -> bytes:
    columns: Columns = {"key": np.arange(8), "priority": np.ones(8, np.float32)}
    message = pb.SampleRequest(draw=pb.Draw(draw=number, batches=batches, **changes))
    return frame(message, wire.parts(columns) if priorities else [])


def insert_calls() -> list[list[bytes]]:
    """Streams in order, to begin from."""
    return [
        [opening(), chunk(1), chunk(2)],
        [opening(), chunk(1, compress=True)],
        [opening("staged"), chunk(1), chunk(2)],
        [opening(), pb.InsertRequest(over=True).SerializeToString()],
    ]


def sample_calls() -> list[list[bytes]]:
    """The same of Sample."""
    return [
        [sample_opening(), draw(0), draw(1, 2, False)],
        [sample_opening("staged", compress=True), draw(0, apply=pb.Apply(round=0, slots=[0])), draw(1)],
        [sample_opening(by_reference=True), draw(0, 0)],
    ]
