"""The Experience service behind a real socket, and small clients of it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from core import errors, rpc, wire
from core.framing import Framed, frame
from core.stream import InsertStream
from core.types import Array, UnrollHeader
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from replay_server.service import ExperienceService
from tests.services.serving import DEADLINE_S, Serving
from tests.unit.counting import CountingLife, signature

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
T, B = 4, 3
STARTS = 9  # of the 12 rows of one unroll, those whose window of 2 rows is in the table
DEFINITION = ReplayDefinition(
    name="experience",
    signature=signature(T, B),
    capacity=2000,
    batch_size=8,
    max_batches=2,
    min_size=20,
    samples_per_insert=0.0,  # only min_size limits
    before=1,
    after=2,
    writers=2,
)


@pytest.fixture
def service(serving: Serving) -> ExperienceService:
    service = ExperienceService()
    serving.start(EXPERIENCE, service)
    return service


@pytest.fixture
def client(serving: Serving, service: ExperienceService) -> rpc.Client:
    return rpc.Client(serving.channel(), EXPERIENCE, "the replay server")


def ensure(client: rpc.Client, definition: ReplayDefinition = DEFINITION, protocol: int = rpc.PROTOCOL) -> bool:
    """EnsureTable: whether it was made."""
    return ensure_reply(client, definition, protocol).created


def ensure_reply(client: rpc.Client, definition: ReplayDefinition, protocol: int = rpc.PROTOCOL) -> pb.EnsureTableReply:
    table = pb.TableDefinition(name=definition.name, settings=definition.pack())
    request = pb.EnsureTableRequest(protocol=protocol, table=table)
    return client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S)


def info(client: rpc.Client) -> pb.InfoReply:
    return client.unary("Info", pb.InfoRequest(), pb.InfoReply, DEADLINE_S)


def figure(client: rpc.Client, name: str) -> float:
    """A figure of the one table."""
    (table,) = info(client).tables
    return table.figures[name]


@pytest.fixture
def table(client: rpc.Client) -> rpc.Client:
    """The client, with a replay table made."""
    assert ensure(client)
    return client


@pytest.fixture
def stream(serving: Serving, table: rpc.Client) -> Iterator[InsertStream]:
    stream = InsertStream(serving.channel(), "the replay server", "experience", 0, 7, window=4, max_chunk_bytes=200)
    yield stream
    stream.close()


def send(stream: InsertStream, life: CountingLife, unrolls: int) -> int:
    """Insert so many unrolls; the valid rows in them."""
    env_steps = 0
    for _ in range(unrolls):
        columns = life.unroll(T)
        header = life.header(columns, round=life.seq)
        env_steps += header.env_steps
        stream.insert(header, columns)
    return env_steps


class Sampler:
    """A Sample call."""

    def __init__(
        self, client: rpc.Client, table: str = "experience", protocol: int = rpc.PROTOCOL, seed: int = 5
    ) -> None:
        self._requests: queue.SimpleQueue[pb.SampleRequest | bytes | None] = queue.SimpleQueue()
        opened = pb.SampleOpen(protocol=protocol, table=table, seed=seed, headers=True)
        self._requests.put(pb.SampleRequest(open=opened))
        self._peer = client.peer
        self._call = client.stream("Sample", iter(self._requests.get, None), framed=True)
        self._opened: pb.SampleOpened | None = None

    def ask(self, draw: int, batches: int = 2) -> None:
        self._requests.put(pb.SampleRequest(draw=pb.Draw(draw=draw, batches=batches)))

    def opened(self) -> pb.SampleOpened:
        """What the stream began with, or the error that ended the call."""
        if self._opened is None:
            self._opened = self._next().message.opened
        return self._opened

    def reply(self) -> Framed[pb.SampleReply]:
        """The next reply, or the error that ended the call."""
        self.opened()
        return self._next()

    def _next(self) -> Framed[pb.SampleReply]:
        try:
            reply: Framed[pb.SampleReply] = next(self._call)
        except grpc.RpcError as error:
            raise rpc.from_rpc(error, self._peer) from error
        return reply

    def set(self, keys: Array, priorities: Array, draw: pb.Draw | None = None) -> None:
        """Priorities, alone or with a draw."""
        payload = wire.parts({"key": keys, "priority": priorities})
        self._requests.put(frame(pb.SampleRequest(draw=draw), payload))

    def draw(self, draw: int) -> tuple[Array, dict[str, Array], list[pb.SampleReply]]:
        """Keys and columns of one draw, and all its replies."""
        self.ask(draw)
        replies = [self.reply()]
        while not replies[-1].payload:
            replies.append(self.reply())
        assert {reply.message.draw for reply in replies} == {draw}
        columns = wire.decode(replies[-1].payload)
        return columns.pop("key"), columns, [reply.message for reply in replies]

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()


@pytest.fixture
def sampler(table: rpc.Client) -> Iterator[Sampler]:
    sampler = Sampler(table)
    yield sampler
    sampler.close()


def insert_error(client: rpc.Client, *requests: pb.InsertRequest | bytes) -> errors.ShoalError | None:
    """What an Insert call of these requests ends with."""
    try:
        for _ in client.stream("Insert", iter(requests)):
            pass
    except grpc.RpcError as error:
        return rpc.from_rpc(error, client.peer)
    return None


def open_request(**changes: Any) -> pb.InsertRequest:
    fields = {"protocol": rpc.PROTOCOL, "table": "experience", "slot": 0, "incarnation": 1}
    return pb.InsertRequest(open=pb.InsertOpen(**{**fields, **changes}))


def first_reply(client: rpc.Client, name: str, request: pb.InsertRequest | pb.SampleRequest) -> None:
    """Open a stream and wait for its first reply. Raises what refuses it."""
    stream = client.stream(name, iter([request]))
    try:
        next(stream)
    except grpc.RpcError as error:
        raise rpc.from_rpc(error, client.peer) from error
    finally:
        stream.cancel()


def chunk(columns: dict[str, Array] | bytes, **changes: Any) -> bytes:
    payload = columns if isinstance(columns, bytes) else wire.encode(columns)
    header = wire.header_to_proto(UnrollHeader(0, 0, 0, T * B))
    fields = {"seq": 1, "parts": 1, "header": header, "payload_bytes": len(payload)}
    return frame(pb.InsertRequest(chunks=[pb.Chunk(**{**fields, **changes})]), [payload])


def unroll(rows: int = T, envs: int = B) -> dict[str, Array]:
    return CountingLife(0, 1, envs, np.random.default_rng(1)).unroll(rows)
