"""gRPC as Shoal uses it: channels, servers, deadlines, and errors that keep their class across the wire.

Methods are read off the descriptors in protos/, so there is no generated service code. Servers are grpc.aio, clients
are synchronous. A handler may return a message or bytes that are one already (weights are encoded once for all).
Every error of core/errors.py crosses the border as a status, its message and its class name; nothing else is guessed.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from core import errors
from core.framing import unframe

PROTOCOL = 3
_ERROR_KEY = "shoal-error"
_PROBLEMS_KEY = "shoal-problems-bin"
_MOST_CHARACTERS = 1500  # of a message; what carries it is refused above 8 KiB, in which a status has it twice
_STATUS: dict[type[errors.ShoalError], grpc.StatusCode] = {
    errors.ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.WireError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TableNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.TableClosedError: grpc.StatusCode.CANCELLED,
    errors.RateLimitedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.PeerIncompatibleError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ShoalError: grpc.StatusCode.FAILED_PRECONDITION,
}
M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])
logger = logging.getLogger(__name__)


def options(max_message_bytes: int, keepalive_s: float) -> list[tuple[str, Any]]:
    """Channel and server arguments: message limits, keepalive on both sides, no shared port."""
    keepalive_ms = int(keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),  # whatever the other end's keepalive is
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(address: str, max_message_bytes: int = 64 << 20, keepalive_s: float = 10.0) -> grpc.Channel:
    """A channel to HOST:PORT or unix:PATH; nothing is sent yet."""
    return grpc.insecure_channel(address, options(max_message_bytes, keepalive_s))


def new_server(
    max_message_bytes: int = 64 << 20, keepalive_s: float = 10.0, max_calls: int | None = None
) -> grpc.aio.Server:
    """An aio server without a port; to be made inside its event loop. More than `max_calls` at once are refused."""
    return grpc.aio.server(options=options(max_message_bytes, keepalive_s), maximum_concurrent_rpcs=max_calls)


def bind(server: grpc.aio.Server, address: str) -> str:
    """Bind and return the address with its real port. Raises ConfigError where it cannot be had."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _unusable(address) from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _unusable(address: str) -> errors.ConfigError:
    """The error for an address that is taken or not ours."""
    return errors.ConfigError(
        f"cannot listen on {address}: the port is in use, or the host is not this machine's; "
        "choose another with --listen HOST:PORT (port 0 takes any free one)"
    )


def check_protocol(theirs: int, who: str) -> None:
    """Raise PeerIncompatibleError where a peer speaks another protocol."""
    if theirs != PROTOCOL:
        raise errors.PeerIncompatibleError(
            f"{who} speaks protocol {theirs}, this process {PROTOCOL}: install the same Shoal version on both sides"
        )


# ---------------------------------------------------------------------------------------------------- server side


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def add_service(server: grpc.aio.Server, service: ServiceDescriptor, servicer: object) -> None:
    """Serve the service's methods by the servicer's async methods of the same names."""
    handlers = {m.name: _handler(m, getattr(servicer, m.name)) for m in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def framed(function: F) -> F:
    """Marks a handler that takes its requests as bytes, for core/framing.py to read."""
    function.framed = True  # type: ignore[attr-defined]
    return function


def _handler(method: MethodDescriptor, function: Callable[..., Any]) -> Any:
    make: Callable[..., Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    guard = _guard_stream if method.server_streaming else _guard_unary
    parse = None if hasattr(function, "framed") else GetMessageClass(method.input_type).FromString
    return make(guard(function), request_deserializer=parse, response_serializer=_serialize)


def _guard_unary(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await function(request, context)
        except errors.ShoalError as error:
            return await abort(context, error)

    return guarded


def _guard_stream(function: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., Awaitable[None]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        requests = _Requests(context) if hasattr(request, "__aiter__") else request
        try:
            async with contextlib.aclosing(function(requests, context)) as replies:  # its `finally` runs at once
                async for reply in replies:
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
    logger.warning("%s: %s: %s", context.peer(), type(error).__name__, error)
    await context.abort(code, details, metadata)


def to_status(error: errors.ShoalError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Status code, message and trailing metadata that carry an error across."""
    code = next(_STATUS[c] for c in type(error).__mro__ if c in _STATUS)
    metadata: list[tuple[str, str | bytes]] = [(_ERROR_KEY, type(error).__name__)]
    if isinstance(error, errors.ConfigError):
        most = _MOST_CHARACTERS // max(1, len(error.problems))
        metadata.append((_PROBLEMS_KEY, json.dumps([_cut(p, most) for p in error.problems]).encode()))
    return code, _cut(str(error), _MOST_CHARACTERS), tuple(metadata)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


# ---------------------------------------------------------------------------------------------------- client side


def from_rpc(error: grpc.RpcError, peer: str) -> errors.ShoalError:
    """The error that the peer meant, or the transport's own."""
    metadata = (
        {m.key: m.value for m in (error.trailing_metadata() or ())} if hasattr(error, "trailing_metadata") else {}
    )
    kind = {c.__name__: c for c in errors.all_errors()}.get(str(metadata.get(_ERROR_KEY)))
    details, code = str(error.details() or ""), error.code()
    if kind is errors.ConfigError:
        return errors.ConfigError(*json.loads(metadata[_PROBLEMS_KEY]))
    if kind is not None:
        return kind(details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineError(f"{peer} did not answer in time: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.PeerIncompatibleError(f"{peer} does not know the call: is it a Shoal service of this version?")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "oncurrent" in details:
        return errors.UnavailableError(f"{peer} has as many calls as it takes: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.TooLargeError(f"{peer} refused a message for its size: {details}")
    if code is grpc.StatusCode.UNKNOWN:
        return errors.TransportError(f"{peer} failed inside ({details}); its log has the traceback")
    return errors.UnavailableError(f"{peer} cannot be reached ({code.name}: {details})")


class Client:
    """Synchronous calls of one service over one channel; raises the errors of core/errors.py."""

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor, peer: str) -> None:
        self._channel, self._service, self.peer = channel, service, peer

    def _method(self, name: str, framed: bool = False) -> Callable[..., Any]:
        method = self._service.methods_by_name[name]
        reply = GetMessageClass(method.output_type)
        make: Any = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        call: Callable[..., Any] = make(
            f"/{self._service.full_name}/{name}",
            request_serializer=_serialize,
            response_deserializer=partial(unframe, reply) if framed else reply.FromString,
        )
        return call

    def unary(self, name: str, request: Message, reply: type[M], timeout_s: float, wait: bool = False) -> M:
        """One call with a deadline; `wait` lets it wait for a server that is not up yet."""
        try:
            answer = self._method(name)(request, timeout=timeout_s, wait_for_ready=wait)
        except grpc.RpcError as error:
            raise from_rpc(error, self.peer) from error
        except ValueError as error:
            raise self._closed(error) from error
        if not isinstance(answer, reply):
            raise TypeError(f"{name} answers {type(answer).__name__}, not {reply.__name__}")
        return answer

    def stream(self, name: str, requests: Message | Iterator[Message | bytes], framed: bool = False) -> Any:
        """A stream call; iterate it for replies (grpc.RpcError where it breaks), `cancel()` ends it.

        `framed` gives the replies as `Framed`, a message and a view of its payload.
        """
        try:
            return self._method(name, framed)(requests)
        except ValueError as error:
            raise self._closed(error) from error

    def _closed(self, error: ValueError) -> errors.UnavailableError:
        """The error for a call on a channel that was closed: the one thing that gRPC says with a ValueError."""
        return errors.UnavailableError(f"{self.peer} cannot be reached any more: {error}")
