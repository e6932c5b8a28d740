"""What comes from elsewhere than a client of the services: a server's answers, requests over HTTP, tokens."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import torch
from google.protobuf.message import DecodeError

from actors.weights import params_of
from core import rpc
from core.errors import ShoalError, UnauthenticatedError
from core.gate import HEADER, Gate
from core.http import Answer, HttpServer
from core.rl.optim import flatten
from core.security import Security, Tokens
from protos import learner_pb2
from tests.fuzz.case import Case

NETWORK = torch.nn.Linear(3, 2)
STATUS: tuple[Any, ...] = tuple(grpc.StatusCode)


class _Status(grpc.RpcError):
    """A status as a peer may send it: of every two lines one is a key of its metadata, the first two the status."""

    def __init__(self, data: bytes) -> None:
        code, details, *rest = [*data.split(b"\n", 40), b""]
        self._code = STATUS[code[0] % len(STATUS) if code else 0]
        self._details = details.decode(errors="replace")
        pairs = zip(rest[::2], rest[1::2], strict=False)
        text = ((key.decode(errors="replace"), value) for key, value in pairs)
        self._metadata = tuple(_Entry(k, v if k.endswith("-bin") else v.decode(errors="replace")) for k, v in text)

    def code(self) -> Any:
        """As gRPC gives it."""
        return self._code

    def details(self) -> str:
        """In words."""
        return self._details

    def trailing_metadata(self) -> Any:
        """What came with it."""
        return self._metadata


class _Entry(NamedTuple):
    key: str
    value: str | bytes


def answer(data: bytes) -> None:
    assert isinstance(rpc.from_rpc(_Status(data), "the peer"), ShoalError)


def an_answer(error: ShoalError) -> bytes:
    code, details, metadata = rpc.to_status(error)
    lines = [bytes([STATUS.index(code)]), details.replace("\n", " ").encode()]
    for key, value in metadata:
        lines += [key.encode(), value if isinstance(value, bytes) else value.encode()]
    return b"\n".join(lines)


def weights(data: bytes) -> None:
    """What an actor does with a version."""
    with contextlib.suppress(DecodeError):
        reply = learner_pb2.WeightsReply.FromString(data)
        flatten(NETWORK).load(params_of(reply.snapshot))


def some_weights() -> bytes:
    params = flatten(NETWORK).snapshot().tobytes()
    snapshot = learner_pb2.Snapshot(learner_incarnation=7, version=3, params=params, manifest="m", settled={1: 2})
    return learner_pb2.WeightsReply(snapshot=snapshot).SerializeToString()


def tokens(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        Tokens(path=Path(file.name)).roles_of("actor-token-of-the-tests")


def gate(data: bytes) -> None:
    """A header of a call that proves nothing: no text of it is good."""
    with contextlib.suppress(UnauthenticatedError):
        Gate(Security(Tokens("a-token-that-is-not-guessed"))).check("Join", [(HEADER, data.decode("latin-1"))], "a:1")
        raise AssertionError("it was let in")


class Http(Case):
    """Whole requests to a server; the next one is answered all the same."""

    def __init__(self) -> None:
        self._server = HttpServer("127.0.0.1:0", {"/": lambda: Answer(b"here\n")}, setting="fuzz")
        self._broken: list[BaseException | None] = []
        self._server._server.handle_error = self._note  # type: ignore[method-assign]

    def _note(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            self._broken.append(sys.exception())

    def seeds(self) -> Sequence[bytes]:
        """Requests as browsers send them."""
        basic = b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\n\r\n"
        return [b"GET / HTTP/1.0\r\n\r\n", basic, b"HEAD /metrics?a=b HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"]

    def __call__(self, data: bytes) -> None:
        self._ask(data)
        assert self._ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"here\n")
        assert not self._broken, self._broken

    def _ask(self, data: bytes) -> bytes:
        answer = b""
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self._server.port)) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(1 << 16):
                answer += piece
        return answer

    def close(self) -> None:
        """Free the port."""
        self._server.close()
