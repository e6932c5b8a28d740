"""core/rpc.py: errors keep their class across a real server; deadlines, protocols, ports, unknown calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from core import errors, rpc, rpc_server
from protos import experience_pb2, learner_pb2
from protos import experience_pb2 as pb
from tests.services.serving import Serving

EXPERIENCE = experience_pb2.DESCRIPTOR.services_by_name["Experience"]
LEARNER = learner_pb2.DESCRIPTOR.services_by_name["Learner"]
CLASSES = list(errors.all_errors())


class Servicer:
    """Raises `error` if it is set; otherwise answers, or never does."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.answers = True
        self.cancelled = 0

    async def _answer(self) -> None:
        if self.error is not None:
            raise self.error
        if not self.answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoReply | bytes:
        await self._answer()
        return pb.InfoReply(protocol=7, addresses=["here"]).SerializeToString()

    async def EnsureTable(self, request: pb.EnsureTableRequest, context: Any) -> pb.EnsureTableReply:
        await self._answer()
        return pb.EnsureTableReply(created=request.protocol == 3)

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointReply:
        await self._answer()
        return pb.CheckpointReply()

    async def DropTable(self, request: Any, context: Any) -> pb.DropTableReply:
        return pb.DropTableReply()

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.RollbackReply:
        await self._answer()
        return pb.RollbackReply()

    async def Insert(self, requests: AsyncIterator[pb.InsertRequest], context: Any) -> AsyncIterator[pb.InsertReply]:
        async for request in requests:
            yield pb.InsertReply(ack=request.chunks[0].seq)
            await self._answer()

    async def Sample(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield pb.SampleReply(draw=request.draw.draw, payload=b"raw").SerializeToString()


@pytest.fixture
def servicer(serving: Serving) -> Servicer:
    servicer = Servicer()
    serving.start(EXPERIENCE, servicer, max_message_bytes=1 << 16)
    return servicer


@pytest.fixture
def client(serving: Serving, servicer: Servicer) -> rpc.Client:
    return rpc.Client(serving.channel(), EXPERIENCE, "the test's server")


def info(client: rpc.Client, timeout_s: float = 10.0) -> pb.InfoReply:
    return client.unary("Info", pb.InfoRequest(), pb.InfoReply, timeout_s)


def acks(client: rpc.Client, *seqs: int) -> Iterator[int]:
    requests: Iterator[Any] = iter([pb.InsertRequest(chunks=[pb.Chunk(seq=seq)]) for seq in seqs])
    for reply in client.stream("Insert", requests):
        yield reply.ack


def an_error(kind: type[errors.ShoalError]) -> errors.ShoalError:
    if kind is errors.ConfigError:
        return errors.ConfigError("gamma: 1.5 is over 1", "envs: ü — none")
    return kind("slot 3: 7 bytes, the limit is 5: send less — ü\nand a second line")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_a_unary_call_whole(
    kind: type[errors.ShoalError], servicer: Servicer, client: rpc.Client
) -> None:
    sent = servicer.error = an_error(kind)
    with pytest.raises(errors.ShoalError) as caught:
        info(client)
    assert type(caught.value) is kind
    assert str(caught.value) == str(sent)
    assert getattr(caught.value, "problems", None) == getattr(sent, "problems", None)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_a_stream_whole(
    kind: type[errors.ShoalError], servicer: Servicer, client: rpc.Client
) -> None:
    sent = servicer.error = an_error(kind)
    replies = acks(client, 5, 6)
    assert next(replies) == 5
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    received = rpc.from_rpc(caught.value, client.peer)
    assert type(received) is kind
    assert str(received) == str(sent)


@pytest.mark.parametrize("length", [3_000, 100_000])
@pytest.mark.parametrize("kind", [errors.SchemaError, errors.ConfigError])
def test_a_long_message_does_not_hide_the_class(
    kind: type[errors.ShoalError], length: int, servicer: Servicer, client: rpc.Client
) -> None:
    servicer.error = kind("ü" + "x" * length)
    with pytest.raises(kind, match="üxxx"):
        info(client)


def test_the_server_lives_on_after_an_error(servicer: Servicer, client: rpc.Client) -> None:
    servicer.error = errors.SchemaError("no")
    with pytest.raises(errors.SchemaError):
        info(client)
    servicer.error = None
    assert info(client).protocol == 7


def test_a_reply_may_be_bytes_that_are_encoded_already(client: rpc.Client) -> None:
    assert list(info(client).addresses) == ["here"]
    requests: Iterator[Any] = iter([pb.SampleRequest(draw=pb.Draw(draw=n)) for n in (4, 5)])
    assert [(r.draw, r.payload) for r in client.stream("Sample", requests)] == [(4, b"raw"), (5, b"raw")]


def test_a_request_reaches_the_handler(client: rpc.Client) -> None:
    replies = [
        client.unary("EnsureTable", pb.EnsureTableRequest(protocol=n), pb.EnsureTableReply, 10.0) for n in (2, 3)
    ]
    assert [reply.created for reply in replies] == [False, True]


def test_a_deadline_that_passes_is_a_deadline_error(servicer: Servicer, client: rpc.Client) -> None:
    servicer.answers = False
    with pytest.raises(errors.DeadlineError, match="the test's server did not answer in time"):
        info(client, 0.05)


def test_a_cancelled_stream_ends_its_handler(serving: Serving, servicer: Servicer, client: rpc.Client) -> None:
    servicer.answers = False
    call = client.stream("Insert", iter([pb.InsertRequest(chunks=[pb.Chunk(seq=1)])]))
    assert next(call).ack == 1
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert isinstance(rpc.from_rpc(caught.value, client.peer), errors.UnavailableError)

    async def ended() -> None:
        while not servicer.cancelled:
            await asyncio.sleep(0)

    serving.loop.call(ended(), 10.0)
    assert servicer.cancelled == 1


def test_an_unknown_call_says_that_it_is_no_shoal_of_this_version(serving: Serving, client: rpc.Client) -> None:
    other = rpc.Client(serving.channel(), LEARNER, "the replay server")
    with pytest.raises(errors.PeerIncompatibleError, match="the replay server does not know the call"):
        other.unary("Info", learner_pb2.LearnerInfoRequest(), learner_pb2.LearnerInfoReply, 10.0)


def test_a_message_over_the_limit_is_refused_by_its_size(client: rpc.Client) -> None:
    table = pb.TableDefinition(settings=bytes(1 << 17))
    with pytest.raises(errors.TooLargeError, match="refused a message for its size"):
        client.unary("EnsureTable", pb.EnsureTableRequest(table=table), pb.EnsureTableReply, 10.0)
    assert info(client).protocol == 7


def test_nobody_there_is_unavailable(serving: Serving) -> None:
    client = rpc.Client(serving.channel(), EXPERIENCE, "the replay server")
    with pytest.raises(errors.UnavailableError, match="the replay server cannot be reached"):
        info(client)


def test_a_closed_channel_is_unavailable(serving: Serving, servicer: Servicer) -> None:
    channel = serving.channel()
    client = rpc.Client(channel, EXPERIENCE, "the replay server")
    channel.close()
    with pytest.raises(errors.UnavailableError, match="the replay server"):
        info(client)
    with pytest.raises(errors.UnavailableError, match="the replay server"):
        client.stream("Insert", iter(()))


def test_a_call_may_wait_for_a_server_that_is_not_up_yet(serving: Serving) -> None:
    client = rpc.Client(serving.channel(), EXPERIENCE, "the replay server")
    with pytest.raises(errors.UnavailableError):
        info(client)
    serving.start(EXPERIENCE, Servicer())
    assert client.unary("Info", pb.InfoRequest(), pb.InfoReply, 10.0, wait=True).protocol == 7


def test_a_reply_of_another_type_is_a_programming_error(client: rpc.Client) -> None:
    with pytest.raises(TypeError, match="Info answers InfoReply, not InsertReply"):
        client.unary("Info", pb.InfoRequest(), pb.InsertReply, 10.0)


def test_protocols_must_be_equal() -> None:
    rpc.check_protocol(rpc.PROTOCOL, "the learner")
    with pytest.raises(errors.PeerIncompatibleError, match="the learner speaks protocol 99, this process 3: install"):
        rpc.check_protocol(99, "the learner")


def test_a_port_in_use_and_a_foreign_host_name_what_to_do(serving: Serving) -> None:
    async def bind(address: str) -> str:
        first = rpc_server.new_server()
        bound = rpc_server.bind(first, address)
        await first.start()
        try:
            rpc_server.bind(rpc_server.new_server(), bound)
        finally:
            await first.stop(None)
        return bound

    with pytest.raises(errors.ConfigError, match=r"cannot listen on 127.0.0.1:\d+: the port is in use.*--listen"):
        serving.loop.call(bind("127.0.0.1:0"), 10.0)
    with pytest.raises(errors.ConfigError, match=r"cannot listen on 192.0.2.1:0"):
        serving.loop.call(bind("192.0.2.1:0"), 10.0)


def test_binding_tells_the_real_port(serving: Serving) -> None:
    async def bind() -> list[str]:
        server = rpc_server.new_server()
        return [rpc_server.bind(server, "127.0.0.1:0"), rpc_server.bind(server, serving.address)]

    tcp, unix = serving.loop.call(bind(), 10.0)
    assert int(tcp.removeprefix("127.0.0.1:")) > 0
    assert unix == serving.address


def test_a_call_that_fails_for_want_of_memory_is_told(serving: Serving) -> None:
    told: list[MemoryError] = []
    full = Servicer()
    full.error = MemoryError("no more")

    async def start() -> grpc.aio.Server:
        server = rpc_server.new_server()
        rpc_server.add_service(server, EXPERIENCE, full, no_memory=told.append)
        rpc_server.bind(server, serving.address)
        await server.start()
        return server

    server = serving.loop.call(start(), 10.0)
    with rpc.open_channel(serving.address) as channel:
        client = rpc.Client(channel, EXPERIENCE, "the server")
        with pytest.raises(errors.TransportError, match="failed inside"):
            client.unary("Info", pb.InfoRequest(), pb.InfoReply, 10.0)
    serving.loop.call(server.stop(None), 10.0)
    assert [str(error) for error in told] == ["no more"]
