"""A table that goes back in time under its streams: none of them reaches into the other past."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core import errors, rpc
from core.types import Array
from protos import experience_pb2 as pb
from tests.services.experience import DEFINITION, EXPERIENCE, Sampler, chunk, ensure, open_request, unroll
from tests.services.replaying import FileServer, file_server
from tests.services.serving import DEADLINE_S, Serving

__all__ = ["file_server"]
PRIORITISED = replace(DEFINITION, sampler="prioritised", min_size=1)


def call(client: rpc.Client, name: str, round_: int) -> None:
    request = {"Checkpoint": pb.CheckpointRequest, "Rollback": pb.RollbackRequest}[name]
    reply = {"Checkpoint": pb.CheckpointReply, "Rollback": pb.RollbackReply}[name]
    client.unary(name, request(protocol=rpc.PROTOCOL, table="experience", round=round_), reply, DEADLINE_S)


def insert(client: rpc.Client, incarnation: int) -> None:
    requests: list[pb.InsertRequest | bytes] = [open_request(incarnation=incarnation), chunk(unroll())]
    assert [reply.ack for reply in client.stream("Insert", iter(requests))] == [0, 1]


@pytest.fixture
def rolled_back(serving: Serving, file_server: FileServer) -> tuple[rpc.Client, Sampler, Array]:
    """A client, a stream of before the rollback that was idle meanwhile, and keys that it drew."""
    client = rpc.Client(serving.channel(), EXPERIENCE, "the replay server")
    ensure(client, PRIORITISED)
    insert(client, 1)
    call(client, "Checkpoint", 1)
    stream = Sampler(client)
    keys, _, _ = stream.draw(0)
    call(client, "Rollback", 1)
    return client, stream, keys


@pytest.mark.parametrize("with_draw", [True, False])
def test_an_older_stream_sets_no_priorities(rolled_back: tuple[rpc.Client, Sampler, Array], with_draw: bool) -> None:
    client, stream, keys = rolled_back
    stream.set(keys, np.full(len(keys), 99, np.float32), pb.Draw(draw=1, batches=1) if with_draw else None)
    with pytest.raises(errors.UnavailableError, match="table 'experience' went back to round 1"):
        stream.reply()
    fresh = Sampler(client, seed=9)
    fresh.ask(0)
    reply = fresh.reply()
    assert reply.message.items == 9
    stream.close()
    fresh.close()


def test_what_came_after_the_manifest_is_not_told(rolled_back: tuple[rpc.Client, Sampler, Array]) -> None:
    client, stream, _ = rolled_back
    stream.close()
    insert(client, 2)
    call(client, "Rollback", 1)
    fresh = Sampler(client)
    _, _, replies = fresh.draw(0)
    assert [header for reply in replies for header in reply.headers] == []
    fresh.close()
