"""Messages that carry columns: a protobuf head, and behind it the payload, written and read without copying it twice.

Such a message is plain protobuf whose last two fields are `bytes padding = 14` and `bytes payload = 15`. Left to
protobuf, the payload would be copied again when it is set, parsed and taken out; here its buffers are joined straight
into the message, and reading gives a view of it. The padding puts it at a multiple of 64 bytes. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from core.errors import CodecError, TooLargeError

Buffer: TypeAlias = "bytes | memoryview"
M = TypeVar("M", bound=Message)

ALIGNMENT_BYTES = 64
MOST_HEAD_BYTES = 1 << 20
"""Of a message without its payload: a parsed head takes many times its bytes."""
_PADDING_FIELD, _PAYLOAD_FIELD = 14, 15
_PADDING_TAG, _PAYLOAD_TAG = _PADDING_FIELD << 3 | 2, _PAYLOAD_FIELD << 3 | 2
_ZEROS = bytes(ALIGNMENT_BYTES)
_FIXED_BYTES = {1: 8, 5: 4}
_MOST_VARINT_BYTES = 10


class Framed(NamedTuple, Generic[M]):
    """A message, and a view of its payload (empty where it has none)."""

    message: M
    payload: memoryview


def frame(head: Message, payload: Sequence[Buffer]) -> bytes:
    """`head`, whose own padding and payload are not set, with the buffers (of bytes) as its payload."""
    start = head.SerializeToString()
    if not payload:
        return start
    size = _varint(sum(map(len, payload)))
    padding = -(len(start) + 2 + 1 + len(size)) % ALIGNMENT_BYTES
    between = (bytes((_PADDING_TAG, padding)), _ZEROS[:padding], bytes((_PAYLOAD_TAG,)), size)
    return b"".join((start, *between, *payload))


def unframe(kind: type[M], data: bytes) -> Framed[M]:
    """The inverse. Raises CodecError or TooLargeError; allocates nothing for the payload."""
    head_end, start = _find_payload(data)
    if head_end > MOST_HEAD_BYTES:
        raise TooLargeError(
            f"a {kind.__name__} has {head_end:,} bytes besides its payload, the limit is {MOST_HEAD_BYTES:,}: "
            "send fewer chunks in one message"
        )
    try:
        message = kind.FromString(data if head_end == len(data) else data[:head_end])
    except DecodeError as error:
        raise CodecError(f"a message of {len(data)} bytes is no {kind.__name__}: {error}") from error
    return Framed(message, memoryview(data)[start:])


def _find_payload(data: bytes) -> tuple[int, int]:
    """Where the head ends and where the payload begins, which reaches to the end; both the end where there is none."""
    at, end, head_end = 0, len(data), -1
    while at < end:
        field_start = at
        tag, at = _read_varint(data, at)
        field, kind = tag >> 3, tag & 7
        if field >= _PADDING_FIELD and head_end < 0:
            head_end = field_start
        if kind == 2:
            size, at = _read_varint(data, at)
            if field == _PAYLOAD_FIELD:
                if at + size != end:
                    raise CodecError(f"a payload of {size} bytes at byte {at} of a message of {end}: it must come last")
                return head_end, at
            at += size
        elif kind == 0:
            _, at = _read_varint(data, at)
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise CodecError(f"a message of {end} bytes has a field of kind {kind} at byte {field_start}")
    if at != end:
        raise CodecError(f"a message of {end} bytes ends in the middle of a field")
    return (head_end if head_end >= 0 else end), end


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    number, end = 0, len(data)
    for place in range(_MOST_VARINT_BYTES):
        if at >= end:
            raise CodecError(f"a message of {end} bytes ends in the middle of a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at
    raise CodecError(f"a message of {end} bytes has a number of more than {_MOST_VARINT_BYTES} bytes")
