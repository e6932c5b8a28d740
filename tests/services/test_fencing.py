"""A table has one learner: actors and streams of the one before it are ended and refused, until they join anew."""

from __future__ import annotations

import queue

import grpc
import pytest

from core import errors, rpc
from protos import experience_pb2 as pb
from tests.services.experience import DEFINITION, EXPERIENCE, chunk, first_reply, open_request, unroll
from tests.services.replaying import FileServer, file_server
from tests.services.serving import DEADLINE_S, Serving

__all__ = ["file_server"]
FIRST, SECOND, NOBODY = 11, 22, 0


@pytest.fixture
def client(serving: Serving, file_server: FileServer) -> rpc.Client:
    return rpc.Client(serving.channel(), EXPERIENCE, "the replay server")


def take(client: rpc.Client, learner: int) -> None:
    """The table is that learner's from now on."""
    table = pb.TableDefinition(name=DEFINITION.name, settings=DEFINITION.pack())
    request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table, learner=learner)
    client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S)


def insert(client: rpc.Client, learner: int, incarnation: int = 1) -> None:
    first_reply(client, "Insert", open_request(learner=learner, incarnation=incarnation))


def sample(client: rpc.Client, learner: int) -> None:
    opened = pb.SampleOpen(protocol=rpc.PROTOCOL, table=DEFINITION.name, seed=1, headers=True, learner=learner)
    first_reply(client, "Sample", pb.SampleRequest(open=opened))


def test_actors_of_the_former_learner_are_refused_and_programs_without_one_are_not(client: rpc.Client) -> None:
    take(client, FIRST)
    insert(client, FIRST)
    take(client, SECOND)
    with pytest.raises(errors.SeatLostError, match="another learner's by now: join anew"):
        insert(client, FIRST)
    insert(client, SECOND, incarnation=2)
    insert(client, NOBODY, incarnation=3)


def test_a_stream_that_stands_is_ended_with_its_next_item_when_a_new_learner_takes_the_table(
    client: rpc.Client,
) -> None:
    take(client, FIRST)
    requests: queue.SimpleQueue[pb.InsertRequest | bytes | None] = queue.SimpleQueue()
    stream = client.stream("Insert", iter(requests.get, None))
    requests.put(open_request(learner=FIRST))
    requests.put(chunk(unroll()))
    assert [next(stream).opened.next_seq, next(stream).ack] == [1, 1]
    take(client, SECOND)
    requests.put(chunk(unroll(), seq=2))
    with pytest.raises(grpc.RpcError) as broken:
        next(stream)
    requests.put(None)
    assert isinstance(rpc.from_rpc(broken.value, "the server"), errors.UnavailableError)


def test_a_former_learner_that_comes_back_does_not_take_the_table_again(client: rpc.Client) -> None:
    take(client, FIRST)
    sample(client, FIRST)
    take(client, SECOND)
    with pytest.raises(errors.SeatLostError, match="another learner's by now"):
        sample(client, FIRST)
    sample(client, SECOND)
    insert(client, SECOND)


def test_a_server_that_was_started_again_knows_whose_table_it_is(client: rpc.Client, file_server: FileServer) -> None:
    take(client, FIRST)
    file_server.stop()
    file_server.start()
    with pytest.raises(errors.SeatLostError):
        insert(client, SECOND)
    sample(client, FIRST)
    insert(client, FIRST)
