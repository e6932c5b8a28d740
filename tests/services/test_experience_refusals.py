"""What the Experience service refuses, and that it lives on."""

from __future__ import annotations

import re
from dataclasses import replace

import msgpack
import numpy as np
import pytest

from core import errors, rpc, wire
from protos import experience_pb2 as pb
from replay_server.queue import FifoQueue
from replay_server.service import ExperienceService
from tests.services.experience import (
    DEFINITION,
    STARTS,
    B,
    Sampler,
    T,
    chunk,
    ensure,
    ensure_reply,
    figure,
    info,
    insert_error,
    open_request,
    unroll,
)
from tests.services.serving import DEADLINE_S, Serving, wait_until
from tests.unit.counting import signature

BAD = [
    ([open_request(), chunk(b"")], errors.CodecError, "0 bytes has no header"),
    ([open_request(), chunk(b"\xff" * 100)], errors.TooLargeError, "the header has 4294967295 bytes"),
    ([open_request(), open_request()], errors.CodecError, "0 chunks"),
    (
        [open_request(), chunk(unroll(), payload_bytes=64)],
        errors.CodecError,
        "the columns end at byte [0-9]+ of a payload of 64",
    ),
    ([open_request(), chunk(unroll(), payload_bytes=1 << 20)], errors.CodecError, "seq 1 ends at byte 1048576"),
    ([open_request(), b"\x7a\x05abc"], errors.CodecError, "must come last"),
    ([open_request(), b"\xff" * 11], errors.CodecError, "a number of more than 10 bytes"),
    ([open_request(), chunk(wire.encode(unroll())[:150])], errors.CodecError, "end at byte"),
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
    ([chunk(unroll())], errors.CodecError, "an Insert stream begins with `open`"),
    ([], errors.CodecError, "an Insert stream begins with `open`"),
]


@pytest.mark.parametrize(("requests", "kind", "words"), BAD, ids=map(str, range(len(BAD))))
def test_a_bad_call_fails_and_the_server_serves_the_next(
    requests: list[pb.InsertRequest | bytes], kind: type[errors.ShoalError], words: str, table: rpc.Client
) -> None:
    error = insert_error(table, *requests)
    assert isinstance(error, kind)
    assert re.search(words, str(error))
    assert figure(table, "inserted") == 0
    fresh: list[pb.InsertRequest | bytes] = [open_request(incarnation=2), chunk(unroll())]
    good = table.stream("Insert", iter(fresh))
    assert [next(good).opened.next_seq, next(good).ack] == [1, 1]
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
    requests: list[pb.InsertRequest | bytes] = [open_request(), chunk(unroll())]
    first = list(table.stream("Insert", iter(requests)))
    again = list(table.stream("Insert", iter(requests)))
    assert [(r.opened.next_seq, r.ack) for r in first] == [(1, 0), (0, 1)]
    assert [(r.opened.next_seq, r.ack) for r in again] == [(2, 0), (0, 1)]
    assert figure(table, "inserted") == STARTS


def test_a_table_is_made_once_and_settings_that_come_later_win(client: rpc.Client) -> None:
    assert [ensure(client), ensure(client)] == [True, False]
    reply = ensure_reply(client, replace(DEFINITION, batch_size=9, min_size=30))
    assert (reply.created, sorted(reply.changed)) == (False, ["batch_size: 8 -> 9", "min_size: 20 -> 30"])
    assert ensure_reply(client, replace(DEFINITION, batch_size=9, min_size=30)).changed == []
    with pytest.raises(errors.ConfigError, match=r"after: 2 -> 1"):
        ensure(client, replace(DEFINITION, after=1))
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
    with pytest.raises(errors.CodecError, match=r"a table definition (cannot be read|is not msgpack)"):
        client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S)
    assert list(info(client).tables) == []


def test_another_protocol_is_refused_everywhere(table: rpc.Client) -> None:
    with pytest.raises(errors.PeerIncompatibleError, match=f"speaks protocol 0, this process {rpc.PROTOCOL}"):
        ensure(table, protocol=0)
    with pytest.raises(errors.PeerIncompatibleError):
        Sampler(table, protocol=9).reply()
    assert info(table).protocol == rpc.PROTOCOL


def test_bad_draws_are_refused_by_name(table: rpc.Client, sampler: Sampler) -> None:
    with pytest.raises(errors.TableNotFoundError, match="no table 'none'"):
        Sampler(table, table="none").reply()
    for batches in (0, 3):
        call = Sampler(table)
        call.ask(0, batches)
        with pytest.raises(errors.ReplayError, match=f"a draw of {batches} batches of 8 items; .* ask for 1 to 2"):
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
    with pytest.raises(errors.TableClosedError, match="was closed"):
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
