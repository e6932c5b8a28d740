"""What a server does with a request before it has read it: ask the gate, for a single request as for a stream's."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest

from core import errors, rpc, rpc_server
from core.security import Security, Tokens
from protos import learner_pb2 as pb
from tests.services.serving import DEADLINE_S, Serving

LEARNER = pb.DESCRIPTOR.services_by_name["Learner"]
ROLES = ("actor", "learner", "admin")
TOKENS = {role: f"{role}-token-of-the-tests" for role in ROLES}


class Answers:
    """A learner that gives everybody the same."""

    async def Join(self, request: pb.JoinRequest, context: object) -> pb.JoinReply:
        return pb.JoinReply(protocol=rpc.PROTOCOL, slot=7)

    async def Weights(self, request: pb.WeightsRequest, context: object) -> AsyncIterator[pb.WeightsReply]:
        yield pb.WeightsReply(finished="at once")

    async def Info(self, request: pb.LearnerInfoRequest, context: object) -> pb.LearnerInfoReply:
        return pb.LearnerInfoReply(protocol=rpc.PROTOCOL)


@pytest.fixture
def address(serving: Serving) -> str:
    security = Security(Tokens("".join(f"{role}: {token}\n" for role, token in TOKENS.items())))
    return serving.listen(LEARNER, Answers(), security, "127.0.0.1:0")


def call(address: str, name: str, messages: Iterator[bytes], role: str | None = None) -> errors.ShoalError | None:
    """Send raw messages; what ended the call, None: its reply."""
    metadata = () if role is None else (("authorization", f"Bearer {TOKENS[role]}"),)
    with grpc.insecure_channel(address) as channel:
        method = channel.stream_stream(f"/{LEARNER.full_name}/{name}", None, None)
        try:
            for _ in method(messages, metadata=metadata, timeout=DEADLINE_S):
                pass
        except grpc.RpcError as error:
            return rpc.from_rpc(error, "the learner")
    return None


@pytest.mark.parametrize("name", ["Join", "Weights", "Info"])
def test_without_a_token_a_request_is_refused_before_it_comes(address: str, name: str) -> None:
    never: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    error = call(address, name, iter(never.get, None))  # a server that reads first would wait for it
    never.put(None)
    assert isinstance(error, errors.UnauthenticatedError)


@pytest.mark.parametrize("name", ["Join", "Weights", "Info"])
def test_what_says_nothing_is_ended(address: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "FIRST_MESSAGE_S", 0.01)
    never: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    error = call(address, name, iter(never.get, None), "actor")
    never.put(None)
    assert isinstance(error, errors.DeadlineError)
    assert "first message did not come within 0.01 s" in str(error)


@pytest.mark.parametrize("name", ["Join", "Weights", "Info"])
def test_a_request_has_a_limit_and_a_form(address: str, name: str) -> None:
    large = call(address, name, iter([b"x" * (rpc_server.MOST_REQUEST_BYTES + 1)]), "actor")
    assert isinstance(large, errors.TooLargeError)
    assert f"a {name} request of 1,048,577 bytes came, the limit is 1,048,576" in str(large)
    torn = call(address, name, iter([b"\xff\xff\xff"]), "actor")
    assert isinstance(torn, errors.CodecError)
    assert f"3 bytes came that are no request of {name}" in str(torn)


@pytest.mark.parametrize("name", ["Join", "Weights"])
def test_seats_and_weights_are_an_actors_alone(address: str, name: str) -> None:
    assert call(address, name, iter([b""]), "actor") is None
    for role in ("learner", "admin"):
        error = call(address, name, iter([b""]), role)
        assert isinstance(error, errors.ForbiddenError)
        assert f"{name} needs a token of the role actor; the one that came is good for {role}" in str(error)


@pytest.mark.parametrize("role", ROLES)
def test_everybody_known_may_ask_how_the_run_is(address: str, role: str) -> None:
    assert call(address, "Info", iter([b""]), role) is None
