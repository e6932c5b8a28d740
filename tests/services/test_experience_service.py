"""The Experience service as clients see it: a real server and socket, a real replay table or queue behind it."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import msgpack
import numpy as np
import pytest

from core import errors, rpc, wire
from core.stream import InsertStream
from core.types import Array, UnrollHeader
from protos import experience_pb2 as pb
from replay_server import service as service_module
from replay_server.definition import ReplayDefinition
from replay_server.queue import FifoQueue
from replay_server.reports import MERGED_SLOT
from replay_server.service import ExperienceService
from tests.services.serving import DEADLINE_S, Serving, wait_until
from tests.unit.counting import CountingLife, signature

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
T, B = 4, 3
STARTS = 9  # of the 12 rows of one unroll, those whose window of 2 rows is in the table
DEFINITION = ReplayDefinition(
    name="experience",
    signature=signature(T, B),
    capacity=2000,
    batch_size=8,
    batches_per_round=2,
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
    table = pb.TableDefinition(name=definition.name, settings=definition.pack())
    request = pb.EnsureTableRequest(protocol=protocol, table=table)
    return client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S).created


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
        self._requests: queue.SimpleQueue[pb.SampleRequest | None] = queue.SimpleQueue()
        self._requests.put(pb.SampleRequest(open=pb.SampleOpen(protocol=protocol, table=table, seed=seed)))
        self._peer = client.peer
        self._call = client.stream("Sample", iter(self._requests.get, None))

    def ask(self, draw: int, batches: int = 2) -> None:
        self._requests.put(pb.SampleRequest(draw=pb.Draw(draw=draw, batches=batches)))

    def reply(self) -> pb.SampleReply:
        """The next reply, or the error that ended the call."""
        try:
            reply = next(self._call)
        except grpc.RpcError as error:
            raise rpc.from_rpc(error, self._peer) from error
        assert isinstance(reply, pb.SampleReply)
        return reply

    def draw(self, draw: int) -> tuple[Array, dict[str, Array], list[pb.SampleReply]]:
        """Keys and columns of one draw, and all its replies."""
        self.ask(draw)
        replies = [self.reply()]
        while not replies[-1].keys:
            replies.append(self.reply())
        assert {reply.draw for reply in replies} == {draw}
        return np.frombuffer(replies[-1].keys, "<i8"), wire.decode(replies[-1].payload), replies

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()


@pytest.fixture
def sampler(table: rpc.Client) -> Iterator[Sampler]:
    sampler = Sampler(table)
    yield sampler
    sampler.close()


def insert_error(client: rpc.Client, *requests: pb.InsertRequest) -> errors.ShoalError | None:
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


def chunk(columns: dict[str, Array] | bytes, **changes: Any) -> pb.InsertRequest:
    payload = columns if isinstance(columns, bytes) else wire.encode(columns)
    header = wire.header_to_proto(UnrollHeader(0, 0, 0, T * B))
    return pb.InsertRequest(chunk=pb.Chunk(**{"seq": 1, "parts": 1, "header": header, "payload": payload, **changes}))


def unroll(rows: int = T, envs: int = B) -> dict[str, Array]:
    return CountingLife(0, 1, envs, np.random.default_rng(1)).unroll(rows)


def test_rows_go_in_and_true_windows_come_out(
    table: rpc.Client, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    env_steps = send(stream, CountingLife(0, 7, B, rng), 4)
    stream.flush(DEADLINE_S)
    keys, columns, replies = sampler.draw(0)
    assert keys.shape == (16,)
    assert {name: column.shape for name, column in columns.items()} == {
        "obs": (4, 16, 1),
        "reward": (3, 16),
        "valid": (3, 16),
    }
    numbers = columns["reward"][1]
    np.testing.assert_array_equal(columns["obs"][1:, :, 0], numbers + np.arange(3)[:, None])
    headers = [wire.header_from_proto(h) for reply in replies for h in reply.headers]
    assert [h.round for h in headers] == [1, 2, 3, 4]
    assert sum(h.env_steps for h in headers) == env_steps
    assert (replies[-1].inserted_items, replies[-1].sampled_items) == (figure(table, "inserted"), 16)


def test_equal_draws_of_equal_tables_are_equal(
    table: rpc.Client, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    send(stream, CountingLife(0, 7, B, rng), 6)
    stream.flush(DEADLINE_S)
    first, second = sampler.draw(0)[0], sampler.draw(1)[0]
    assert first.tolist() != second.tolist()
    again = Sampler(table)
    assert again.draw(1)[0].tolist() == second.tolist()
    again.close()


def test_a_draw_that_must_wait_brings_news_until_it_may_go(
    monkeypatch: pytest.MonkeyPatch, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(service_module, "NEWS_EVERY_S", 0.01)
    life = CountingLife(0, 7, B, rng, end=0.0)
    send(stream, life, 1)
    stream.flush(DEADLINE_S)
    sampler.ask(3)
    news = sampler.reply()
    assert (news.draw, news.keys, len(news.headers)) == (3, b"", 1)
    assert len(sampler.reply().headers) == 0
    send(stream, life, 4)
    stream.flush(DEADLINE_S)
    reply = news
    while not reply.keys:
        reply = sampler.reply()
    assert len(reply.keys) == 16 * 8
    assert reply.waited_s > 0


def test_headers_that_nobody_asked_for_in_time_come_merged(
    service: ExperienceService, stream: InsertStream, sampler: Sampler, rng: np.random.Generator
) -> None:
    service.hosted("experience").table._reports.limit = 2
    env_steps = send(stream, CountingLife(0, 7, B, rng), 5)
    stream.flush(DEADLINE_S)
    _, _, replies = sampler.draw(0)
    headers = [wire.header_from_proto(h) for reply in replies for h in reply.headers]
    assert [h.slot for h in headers] == [MERGED_SLOT, 0, 0]
    assert sum(h.env_steps for h in headers) == env_steps


def test_the_rate_limiter_stops_the_acks_and_says_who_waits(
    serving: Serving, service: ExperienceService, client: rpc.Client, rng: np.random.Generator
) -> None:
    assert ensure(client, replace(DEFINITION, samples_per_insert=4.0))
    stream = InsertStream(serving.channel(), "the replay server", "experience", 0, 7)
    sampler = Sampler(client)
    life = CountingLife(0, 7, B, rng, end=0.0)
    hosted = service.hosted("experience")
    while hosted.table.limiter.may_insert(T * B):
        send(stream, life, 1)
        stream.flush(DEADLINE_S)
    send(stream, life, 1)
    wait_until(lambda: any(table.waiters for table in info(client).tables), "somebody waits")
    (told,) = info(client).tables
    assert [(w.who, w.what) for w in told.waiters] == [("actor 0", "room to insert")]
    assert stream.unacknowledged == 1
    before = told.figures["inserted"]
    draw = 0
    while hosted.table.inserted == before and not hosted.table.limiter.may_insert(T * B):
        sampler.draw(draw)
        draw += 1
    assert draw > 0
    stream.flush(DEADLINE_S)
    assert figure(client, "inserted") == before + T * B
    stream.close()
    sampler.close()


BAD = [
    ([open_request(), chunk(b"")], errors.CodecError, "0 bytes has no header"),
    ([open_request(), chunk(b"\xff" * 100)], errors.TooLargeError, "the header has 4294967295 bytes"),
    ([open_request(), open_request()], errors.CodecError, "has no header"),
    ([open_request(), chunk(wire.encode(unroll())[:150])], errors.CodecError, "ends at byte"),
    ([open_request(), chunk({"obs": unroll()["obs"]})], errors.SchemaError, "missing"),
    ([open_request(), chunk(unroll(rows=T + 1))], errors.TooLargeError, "the table takes 1 to 4 rows"),
    ([open_request(), chunk(bytes(1 << 20))], errors.TooLargeError, "this table's largest item"),
    ([open_request(), chunk(unroll(), part=1, parts=2)], errors.CodecError, "part 1 of 2"),
    ([open_request(), chunk(bytes(9), parts=3), chunk(b"", part=1, parts=3)], errors.CodecError, "is empty"),
    ([open_request(), chunk(bytes(9), parts=3), chunk(b"", part=2, parts=3)], errors.CodecError, "where part 1 of 3"),
    ([open_request(), chunk(bytes(9), parts=3), chunk(b"", part=1, parts=4)], errors.CodecError, "part 1 of 4"),
    (
        [open_request(), chunk(bytes(9), parts=3), chunk(b"", part=1, parts=3, seq=2)],
        errors.CodecError,
        "seq 2 came where part 1 of 3 of seq 1",
    ),
    ([open_request(), chunk(unroll(), seq=2)], errors.ItemRejectedError, "expects seq 1 of slot 0, not 2"),
    ([open_request(slot=1), chunk(unroll())], errors.CodecError, "item of slot 0 came on the stream of slot 1"),
    ([open_request(protocol=99)], errors.PeerIncompatibleError, "actor 0 speaks protocol 99"),
    ([open_request(table="expierence")], errors.TableNotFoundError, r"no table 'expierence'; there are \['exper"),
    ([chunk(unroll())], errors.CodecError, "a stream begins with `open`"),
    ([], errors.CodecError, "a stream begins with `open`"),
]


@pytest.mark.parametrize(("requests", "kind", "words"), BAD, ids=map(str, range(len(BAD))))
def test_a_bad_call_fails_and_the_server_serves_the_next(
    requests: list[pb.InsertRequest], kind: type[errors.ShoalError], words: str, table: rpc.Client
) -> None:
    error = insert_error(table, *requests)
    assert isinstance(error, kind)
    assert re.search(words, str(error))
    assert figure(table, "inserted") == 0
    good = table.stream("Insert", iter([open_request(incarnation=2), chunk(unroll())]))
    assert [next(good).next_seq, next(good).ack] == [1, 1]
    assert figure(table, "inserted") == STARTS


def test_random_chunks_never_hurt_the_server(table: rpc.Client, rng: np.random.Generator) -> None:
    good = bytearray(wire.encode(unroll()))
    for _ in range(60):
        payload = bytearray(good)
        for at in rng.integers(0, 128, rng.integers(1, 5)):
            payload[at] = rng.integers(0, 256)
        incarnation = int(rng.integers(1 << 60))
        error = insert_error(table, open_request(incarnation=incarnation), chunk(bytes(payload)))
        assert error is None or isinstance(error, errors.WireError | errors.ReplayError), str(error)
    assert len(info(table).tables) == 1


def test_an_item_is_known_after_its_ack_and_not_applied_again(table: rpc.Client) -> None:
    requests = [open_request(), chunk(unroll())]
    first = list(table.stream("Insert", iter(requests)))
    again = list(table.stream("Insert", iter(requests)))
    assert [(r.next_seq, r.ack) for r in first] == [(1, 0), (0, 1)]
    assert [(r.next_seq, r.ack) for r in again] == [(2, 0), (0, 1)]
    assert figure(table, "inserted") == STARTS


def test_a_table_is_made_once_and_keeps_its_definition(client: rpc.Client) -> None:
    assert [ensure(client), ensure(client)] == [True, False]
    with pytest.raises(errors.ConfigError, match=r"exists with another definition.*batch_size=8.*batch_size=9"):
        ensure(client, replace(DEFINITION, batch_size=9))
    assert ensure(client, replace(DEFINITION, name="other"))
    assert [table.name for table in info(client).tables] == ["experience", "other"]


def test_a_definition_that_would_deadlock_is_refused_and_leaves_no_table(client: rpc.Client) -> None:
    with pytest.raises(errors.ConfigError, match="error_buffer"):
        ensure(client, replace(DEFINITION, samples_per_insert=4.0, error_buffer=1.0))
    assert list(info(client).tables) == []


@pytest.mark.parametrize(
    "settings", [b"", b"\xc1", msgpack.packb(7), msgpack.packb({}), msgpack.packb({"signature": {"columns": [1]}})]
)
def test_a_definition_that_cannot_be_read_is_refused(settings: bytes, client: rpc.Client) -> None:
    request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=pb.TableDefinition(settings=settings))
    with pytest.raises(errors.CodecError, match="a table definition cannot be read"):
        client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S)
    assert list(info(client).tables) == []


def test_another_protocol_is_refused_everywhere(table: rpc.Client) -> None:
    with pytest.raises(errors.PeerIncompatibleError, match="the learner speaks protocol 0, this process 1"):
        ensure(table, protocol=0)
    with pytest.raises(errors.PeerIncompatibleError):
        Sampler(table, protocol=2).reply()
    assert info(table).protocol == rpc.PROTOCOL


def test_bad_draws_are_refused_by_name(table: rpc.Client, sampler: Sampler) -> None:
    with pytest.raises(errors.TableNotFoundError, match="no table 'none'"):
        Sampler(table, table="none").reply()
    for batches in (0, 3):
        call = Sampler(table)
        call.ask(0, batches)
        with pytest.raises(errors.ReplayError, match=f"a draw of {batches} batches of 8 items: ask for 1 to 2"):
            call.reply()
        call.close()
    assert len(info(table).tables) == 1


def test_a_queue_is_neither_sampled_nor_replaced(
    serving: Serving, service: ExperienceService, client: rpc.Client
) -> None:
    serving.on_loop(service.host, "experience", FifoQueue(signature(T, B), 2))
    with pytest.raises(errors.TableNotFoundError, match="'experience' is a queue"):
        Sampler(client).reply()
    with pytest.raises(errors.ConfigError, match="'experience' is a queue of the learner"):
        ensure(client)
    assert figure(client, "capacity") == 2


def test_closing_ends_every_waiting_call(
    serving: Serving, service: ExperienceService, table: rpc.Client, sampler: Sampler
) -> None:
    sampler.ask(0)
    wait_until(lambda: any(t.waiters for t in info(table).tables), "the draw waits")
    serving.on_loop(service.close)
    with pytest.raises(errors.TableClosedError, match="was closed while the learner waited for items to sample"):
        list(iter(sampler.reply, None))
    assert isinstance(insert_error(table, open_request()), errors.TableClosedError)


def test_a_cancelled_draw_waits_no_more(table: rpc.Client, sampler: Sampler) -> None:
    sampler.ask(0)
    wait_until(lambda: any(t.waiters for t in info(table).tables), "the draw waits")
    sampler.close()
    wait_until(lambda: not any(t.waiters for t in info(table).tables), "it does not any more")
    assert len(info(table).tables) == 1


def test_info_tells_addresses(serving: Serving, service: ExperienceService, client: rpc.Client) -> None:
    service.addresses = [serving.address]
    reply = info(client)
    assert (reply.protocol, list(reply.addresses), list(reply.tables)) == (rpc.PROTOCOL, [serving.address], [])
