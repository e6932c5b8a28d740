"""gRPC as Shoal uses it: channels, calls with deadlines, and errors that keep their class across the wire.

Clients are synchronous; the servers' side is rpc_server.py. Methods are read off the descriptors in protos/. Every
error of core/errors.py crosses the border as a status, its message and its class name; nothing else is guessed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from core import errors
from core.framing import unframe
from core.gate import HEADER, SCHEME
from core.security import NEEDED, Security, from_environment

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
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ShoalError: grpc.StatusCode.FAILED_PRECONDITION,
}
WAIT_PAUSE_S = 0.1
M = TypeVar("M", bound=Message)


def options(max_message_bytes: int, keepalive_s: float) -> list[tuple[str, Any]]:
    """Channel and server arguments: message limits, keepalive on both sides, no shared port."""
    keepalive_ms = int(keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),  # without it a half-open connection is noticed after minutes
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


class Channel:
    """A channel of gRPC's, and what this process proves itself with in calls over it."""

    def __init__(self, inner: grpc.Channel, security: Security) -> None:
        self.inner, self._tokens = inner, security.tokens

    def metadata(self, method: str) -> tuple[tuple[str, str], ...]:
        """Of a call: the token for the role that it needs, where there is one."""
        token = None if self._tokens is None else self._tokens.of(NEEDED.get(method))
        return () if token is None else ((HEADER, f"{SCHEME}{token}"),)

    def close(self) -> None:
        """End every call."""
        self.inner.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_channel(
    address: str,
    max_message_bytes: int = 64 << 20,
    keepalive_s: float = 10.0,
    security: Security | None = None,
) -> Channel:
    """A channel to HOST:PORT or unix:PATH; nothing is sent yet.

    Over a network it is encrypted where `security` (None: the environment's) says so. Raises ConfigError.
    """
    security = security or from_environment()
    arguments, tls = options(max_message_bytes, keepalive_s), security.tls
    if tls is None or address.startswith("unix:"):
        return Channel(grpc.insecure_channel(address, arguments), security)
    if tls.name is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.name))
    ca, key, cert = (None if file is None else file.read_bytes() for file in (tls.ca, tls.key, tls.cert))
    return Channel(grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), arguments), security)


def check_protocol(theirs: int, who: str) -> None:
    """Raise PeerIncompatibleError where a peer speaks another protocol."""
    if theirs != PROTOCOL:
        raise errors.PeerIncompatibleError(
            f"{who} speaks protocol {theirs}, this process {PROTOCOL}: install the same Shoal version on both sides"
        )


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


def serialize(message: Message | bytes) -> bytes:
    """A message as bytes; what is bytes is one already."""
    return message if isinstance(message, bytes) else message.SerializeToString()


# ---------------------------------------------------------------------------------------------------- client side


def from_rpc(error: grpc.RpcError, peer: str) -> errors.ShoalError:
    """The error that the peer meant, or the transport's own."""
    metadata = (
        {m.key: m.value for m in (error.trailing_metadata() or ())} if hasattr(error, "trailing_metadata") else {}
    )
    kind = {c.__name__: c for c in errors.all_errors()}.get(str(metadata.get(_ERROR_KEY)))
    details, code = str(error.details() or ""), error.code()
    if kind is errors.ConfigError:
        return errors.ConfigError(*(_problems(metadata.get(_PROBLEMS_KEY)) or [details]))
    if kind is not None:
        return kind(details)
    if "SSL" in details or "ssl" in details:
        return errors.UnauthenticatedError(
            f"{peer} cannot be trusted, does not trust this process, or does not speak TLS: {details}; look at "
            "--tls-ca, --tls-cert and --tls-key on both sides"
        )
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


def _problems(packed: Any) -> list[str]:
    """What a peer's ConfigError lists; nothing where that is no list of texts."""
    try:
        found = json.loads(packed)
    except (TypeError, ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


class Client:
    """Synchronous calls of one service over one channel; raises the errors of core/errors.py."""

    def __init__(self, channel: Channel, service: ServiceDescriptor, peer: str) -> None:
        self._channel, self._service, self.peer = channel, service, peer

    def _method(self, name: str, framed: bool = False) -> Callable[..., Any]:
        method = self._service.methods_by_name[name]
        reply = GetMessageClass(method.output_type)
        channel = self._channel.inner
        make: Any = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        call: Callable[..., Any] = make(
            f"/{self._service.full_name}/{name}",
            request_serializer=serialize,
            response_deserializer=partial(unframe, reply) if framed else reply.FromString,
        )
        return call

    def unary(self, name: str, request: Message, reply: type[M], timeout_s: float, wait: bool = False) -> M:
        """One call with a deadline; `wait` tries again until then where the server is not up yet.

        gRPC could wait itself, but it would take a server that this process cannot trust for one that is not up.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic() if wait else timeout_s
            try:
                return self._call(name, request, reply, max(left_s, 0.01))
            except errors.UnavailableError as error:
                if not wait:
                    raise
                if time.monotonic() + WAIT_PAUSE_S >= until_s:
                    raise errors.DeadlineError(f"{self.peer} did not answer in time: {error}") from error
            time.sleep(WAIT_PAUSE_S)

    def _call(self, name: str, request: Message, reply: type[M], timeout_s: float) -> M:
        try:
            answer = self._method(name)(request, timeout=timeout_s, metadata=self._channel.metadata(name))
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
            return self._method(name, framed)(requests, metadata=self._channel.metadata(name))
        except ValueError as error:
            raise self._closed(error) from error

    def _closed(self, error: ValueError) -> errors.UnavailableError:
        """The error for a call on a channel that was closed: the one thing that gRPC says with a ValueError."""
        return errors.UnavailableError(f"{self.peer} cannot be reached any more: {error}")
