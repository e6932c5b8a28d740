"""gRPC's server side: an aio server, where it listens, and handlers that raise Shoal's errors. On the event loop.

Methods are read off the descriptors in protos/, so there is no generated service code. A handler may return a message
or bytes that are one already (weights are encoded once for all). Every call passes the gate first.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from core import errors
from core.gate import Gate
from core.rpc import options, serialize, to_status
from core.security import OPEN, TOKEN, Security, Tls, is_loopback

F = TypeVar("F", bound=Callable[..., Any])
logger = logging.getLogger(__name__)


def new_server(
    max_message_bytes: int = 64 << 20, keepalive_s: float = 10.0, max_calls: int | None = None
) -> grpc.aio.Server:
    """An aio server without a port; to be made inside its event loop. More than `max_calls` at once are refused."""
    return grpc.aio.server(options=options(max_message_bytes, keepalive_s), maximum_concurrent_rpcs=max_calls)


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
    server: grpc.aio.Server, service: ServiceDescriptor, servicer: object, security: Security = OPEN
) -> None:
    """Serve the service's methods by the servicer's async methods of the same names, to whom `security` lets call."""
    gate = Gate(security)
    handlers = {m.name: _handler(m, getattr(servicer, m.name), gate) for m in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def framed(function: F) -> F:
    """Marks a handler that takes its requests as bytes, for core/framing.py to read."""
    function.framed = True  # type: ignore[attr-defined]
    return function


def _handler(method: MethodDescriptor, function: Callable[..., Any], gate: Gate) -> Any:
    make: Callable[..., Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    guard = _guard_stream if method.server_streaming else _guard_unary
    parse = None if hasattr(function, "framed") else GetMessageClass(method.input_type).FromString
    return make(guard(function, method.name, gate), request_deserializer=parse, response_serializer=serialize)


def _guard_unary(function: Callable[..., Awaitable[Any]], name: str, gate: Gate) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            gate.check(name, context.invocation_metadata() or (), context.peer())
            return await function(request, context)
        except errors.ShoalError as error:
            return await abort(context, error)

    return guarded


def _guard_stream(
    function: Callable[..., AsyncGenerator[Any, None]], name: str, gate: Gate
) -> Callable[..., Awaitable[None]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        requests = _Requests(context) if hasattr(request, "__aiter__") else request
        metadata, changes = context.invocation_metadata() or (), gate.changes
        try:
            gate.check(name, metadata, context.peer())
            async with contextlib.aclosing(function(requests, context)) as replies:  # its `finally` runs at once
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
