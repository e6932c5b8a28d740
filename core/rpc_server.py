"""gRPC's server side: an aio server, where it listens, and handlers that raise Shoal's errors. On the event loop.

Methods are read off the descriptors in protos/, so there is no generated service code. A handler may return a message
or bytes that are one already (weights are encoded once for all). Every call passes the gate first: to gRPC all requests
are streams, a single one too, for it would receive and parse that before anybody is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from core import errors
from core.gate import Gate
from core.rpc import options, serialize, to_status
from core.security import OPEN, TOKEN, Security, Tls, is_loopback

F = TypeVar("F", bound=Callable[..., Any])
MOST_STREAMS = 10_000
"""Open at once at a server; replay_server/in_flight.py bounds what all of them hold."""
MOST_CALLS = MOST_STREAMS + 1000
MOST_CALLS_OF_CONNECTION = 1000
MOST_REQUEST_BYTES = 1 << 20
"""Of a request that is not a stream's; the largest, a table's definition, has a few thousand."""
FIRST_MESSAGE_S = 10.0
"""A call that is still silent is ended."""
logger = logging.getLogger(__name__)


def new_server(max_message_bytes: int = 64 << 20, keepalive_s: float = 10.0) -> grpc.aio.Server:
    """An aio server without a port; to be made inside its event loop. More than `MOST_CALLS` at once are refused."""
    limits = [*options(max_message_bytes, keepalive_s), ("grpc.max_concurrent_streams", MOST_CALLS_OF_CONNECTION)]
    return grpc.aio.server(options=limits, maximum_concurrent_rpcs=MOST_CALLS)


def bind(server: grpc.aio.Server, address: str, security: Security = OPEN) -> str:
    """Bind and return the address with its real port. Raises ConfigError where it cannot be had.

    Encrypted where there is a certificate; with a `ca` whoever calls must show one, too. Unix sockets never are. What
    can be reached from other machines needs tokens.
    """
    if security.tokens is None and not is_loopback(address):
        raise errors.ConfigError(
            f"cannot listen on {address}: other machines could reach it, and without a token anybody could read, write "
            f"and stop the run; give --token-file FILE (or {TOKEN}), or listen on 127.0.0.1"
        )
    try:
        tls = None if address.startswith("unix:") else security.tls
        port = _bind_encrypted(server, address, tls) if tls is not None else server.add_insecure_port(address)
    except RuntimeError as error:
        raise _unusable(address) from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _bind_encrypted(server: grpc.aio.Server, address: str, tls: Tls) -> int:
    if tls.key is None or tls.cert is None:
        raise errors.ConfigError(
            f"cannot listen on {address}: a CA is given, but no certificate and key to show: give --tls-cert and "
            "--tls-key, too"
        )
    ca = None if tls.ca is None else tls.ca.read_bytes()
    pair = [(tls.key.read_bytes(), tls.cert.read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, ca, require_client_auth=ca is not None)
    return server.add_secure_port(address, credentials)


def _unusable(address: str) -> errors.ConfigError:
    """The error for an address that is taken or not ours."""
    return errors.ConfigError(
        f"cannot listen on {address}: the port is in use, or the host is not this machine's; "
        "choose another with --listen HOST:PORT (port 0 takes any free one)"
    )


def add_service(
    server: grpc.aio.Server,
    service: ServiceDescriptor,
    servicer: object,
    security: Security = OPEN,
    no_memory: Callable[[MemoryError], None] = lambda error: None,
) -> None:
    """Serve the service's methods by the servicer's async methods of the same names, to whom `security` lets call.

    `no_memory` is told of a call that failed for want of it: a process that only fails its callers is of no use, and
    another one may have more.
    """
    gate = Gate(security)
    handlers = {m.name: _handler(m, getattr(servicer, m.name), gate, no_memory) for m in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def framed(function: F) -> F:
    """Marks a handler that takes its requests as bytes, for core/framing.py to read."""
    function.framed = True  # type: ignore[attr-defined]
    return function


async def first(requests: AsyncIterator[bytes]) -> bytes | None:
    """The first message of a call, None where it has none. Raises DeadlineError for one that stays silent."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):  # wait_for would lose a cancellation that comes with the message
            return await anext(requests, None)
    except TimeoutError as error:
        raise errors.DeadlineError(f"a call's first message did not come within {FIRST_MESSAGE_S:g} s") from error


def _handler(
    method: MethodDescriptor, function: Callable[..., Any], gate: Gate, no_memory: Callable[[MemoryError], None]
) -> Any:
    parse: Any = GetMessageClass(method.input_type).FromString

    async def one(requests: AsyncIterator[bytes]) -> Any:
        return _parsed(method.name, parse, await first(requests))

    make: Any = grpc.stream_stream_rpc_method_handler
    deserialize = None
    if method.client_streaming:
        guarded = _guarded_stream(function, method.name, gate)
        deserialize = None if hasattr(function, "framed") else parse
    elif method.server_streaming:
        guarded = _guarded_stream(function, method.name, gate, one)
    else:
        make, guarded = grpc.stream_unary_rpc_method_handler, _guarded_unary(function, method.name, gate, one)

    async def told(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await guarded(requests, context)
        except MemoryError as error:
            no_memory(error)
            raise

    return make(told, request_deserializer=deserialize, response_serializer=serialize)


def _parsed(name: str, parse: Callable[[bytes], Any], data: bytes | None) -> Any:
    if data is None:
        raise errors.CodecError(f"a call of {name} ended before its request came")
    if len(data) > MOST_REQUEST_BYTES:
        raise errors.TooLargeError(f"a {name} request of {len(data):,} bytes came, the limit is {MOST_REQUEST_BYTES:,}")
    try:
        return parse(data)
    except DecodeError as error:
        raise errors.CodecError(f"{len(data):,} bytes came that are no request of {name}: {error}") from error


One = Callable[[AsyncIterator[bytes]], Awaitable[Any]]


def _guarded_unary(
    function: Callable[..., Awaitable[Any]], name: str, gate: Gate, one: One
) -> Callable[..., Awaitable[Any]]:
    async def guarded(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            gate.check(name, context.invocation_metadata() or (), context.peer())
            return await function(await one(_Requests(context)), context)
        except errors.ShoalError as error:
            return await abort(context, error)

    return guarded


def _guarded_stream(
    function: Callable[..., AsyncGenerator[Any, None]], name: str, gate: Gate, one: One | None = None
) -> Callable[..., Awaitable[None]]:
    """`one` reads the only request of a call whose replies alone are a stream."""

    async def guarded(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        requests: Any = _Requests(context)
        metadata, changes = context.invocation_metadata() or (), gate.changes
        try:
            gate.check(name, metadata, context.peer())
            request = requests if one is None else await one(requests)
            async with contextlib.aclosing(function(request, context)) as replies:  # its `finally` runs at once
                async for reply in replies:
                    if gate.changes != changes:
                        changes = gate.changes
                        gate.check_again(name, metadata)
                    await context.write(reply)
        except errors.ShoalError as error:
            await abort(context, error)

    return guarded


class _Requests:
    """The messages of a stream. Reading and writing by call costs a tenth less than gRPC's own generators."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._read: Callable[[], Awaitable[Any]] = context.read

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        message = await self._read()
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise StopAsyncIteration
        return message


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.ShoalError) -> None:
    """End the call with the error's status, message and class name."""
    code, details, metadata = to_status(error)
    if not isinstance(error, errors.RateLimitedError):  # they would fill the log
        logger.warning("%s: %s: %s", context.peer(), type(error).__name__, error)
    await context.abort(code, details, metadata)
