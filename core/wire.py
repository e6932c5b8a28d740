"""Columns to bytes and back. Called by actors (encode), servers (decode, check) and the learner (both).

    u32 header bytes | msgpack [[name, dtype, shape, offset], ...] | zeros to a multiple of 64 | raw columns

Offsets count from the start of the raw area and are multiples of 64, so decoding gives aligned views of the payload and
copies nothing. A payload is checked against its own length, and `check` against a table's signature, before anything
is allocated for it. Pure functions.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import numpy as np

from core.errors import CodecError, SchemaError, TooLargeError
from core.specs import Signature
from core.types import Array, Columns, Episode, UnrollHeader
from protos import experience_pb2 as pb

ALIGNMENT_BYTES = 64
MAX_HEADER_BYTES = 1 << 16
MAX_COLUMNS = 256
MAX_DIMENSIONS = 16
_DTYPES = {
    np.dtype(name).str: np.dtype(name)
    for name in ("bool", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
}
_LENGTH = struct.Struct("<I")


def _padding(size: int) -> int:
    return -size % ALIGNMENT_BYTES


def encode(columns: Columns) -> bytes:
    """One copy of every column, in the order of the mapping. Raises CodecError for a dtype that has no place here."""
    header, raw, at = [], [], 0
    for name, column in columns.items():
        array = np.ascontiguousarray(column)
        if array.dtype.str not in _DTYPES:
            raise CodecError(f"column {name!r} has dtype {array.dtype}; only little-endian numbers and bool travel")
        header.append((name, array.dtype.str, array.shape, at))
        raw += [array.data.cast("B") if array.size else b"", bytes(_padding(array.nbytes))]
        at += array.nbytes + _padding(array.nbytes)
    packed: bytes = msgpack.packb(header)
    return b"".join((_LENGTH.pack(len(packed)), packed, bytes(_padding(_LENGTH.size + len(packed))), *raw))


def decode(payload: bytes) -> dict[str, Array]:
    """Read-only views of `payload`. Raises CodecError or TooLargeError; allocates nothing but the views."""
    header, start = _header(payload)
    columns: dict[str, Array] = {}
    for entry in header:
        name, dtype, shape, offset = _entry(entry)
        if name in columns:
            raise CodecError(f"column {name!r} comes twice")
        size = math.prod(shape)
        end = start + offset + size * dtype.itemsize
        if end > len(payload):
            raise CodecError(f"column {name!r} ends at byte {end} of a payload of {len(payload)}")
        try:
            columns[name] = np.frombuffer(payload, dtype, size, start + offset).reshape(shape)
        except ValueError as error:  # no numbers, and yet an axis that numpy cannot have
            raise CodecError(f"column {name!r} has shape {list(shape)}: {error}") from error
    return columns


def _header(payload: bytes) -> tuple[list[Any], int]:
    if len(payload) < _LENGTH.size:
        raise CodecError(f"a payload of {len(payload)} bytes has no header")
    (size,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + size
    if size > MAX_HEADER_BYTES:
        raise TooLargeError(f"the header has {size} bytes, the limit is {MAX_HEADER_BYTES}")
    if end > len(payload):
        raise CodecError(f"the header ends at byte {end} of a payload of {len(payload)}")
    try:
        header = msgpack.unpackb(payload[_LENGTH.size : end], use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CodecError(f"the header is not msgpack: {error}") from error
    if not isinstance(header, list) or len(header) > MAX_COLUMNS:
        raise CodecError(f"the header is no list of at most {MAX_COLUMNS} columns")
    return header, end + _padding(end)


def _entry(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...], int]:
    if not isinstance(entry, list) or len(entry) != 4:
        raise CodecError(f"a column is [name, dtype, shape, offset], not {str(entry)[:80]}")
    name, dtype, shape, offset = entry
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CodecError(f"column {str(name)[:80]!r} has dtype {str(dtype)[:40]!r}, which does not travel")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError(f"column {name!r} has shape {str(shape)[:80]}, not a list of at most {MAX_DIMENSIONS} sizes")
    if type(offset) is not int or offset < 0 or offset % ALIGNMENT_BYTES:
        raise CodecError(f"column {name!r} has offset {offset!r}, not a multiple of {ALIGNMENT_BYTES}")
    return name, _DTYPES[dtype], tuple(shape), offset


def check(columns: Columns, signature: Signature) -> tuple[int, int]:
    """(T, B) of an item that fits the signature. Raises SchemaError or TooLargeError naming the column."""
    if columns.keys() != signature.columns.keys():
        missing = sorted(signature.columns.keys() - columns.keys())
        unknown = sorted(columns.keys() - signature.columns.keys())
        raise SchemaError(f"columns do not fit the table: missing {missing}, unknown {unknown}")
    rows = envs = -1
    for name, spec in signature.columns.items():
        array, want = columns[name], spec.array
        if array.dtype != np.dtype(want.dtype) or array.shape[2:] != want.shape or array.ndim < 2:
            raise SchemaError(
                f"column {name!r} is {array.dtype}{list(array.shape)}, the table takes {want.dtype}[T, B, "
                f"{', '.join(map(str, want.shape))}]"
            )
        size = (array.shape[0] - spec.extra_rows, array.shape[1])
        if (rows, envs) not in ((-1, -1), size):
            raise SchemaError(f"column {name!r} has [T, B] = {list(size)}, the ones before it {[rows, envs]}")
        rows, envs = size
    if not (0 < rows <= signature.max_rows and 0 < envs <= signature.max_envs):
        raise TooLargeError(
            f"the item has [T, B] = {[rows, envs]}; the table takes 1 to {signature.max_rows} rows "
            f"of 1 to {signature.max_envs} environments"
        )
    return rows, envs


def header_to_proto(header: UnrollHeader) -> pb.UnrollHeader:
    """The header as it travels."""
    episodes = [pb.Episode(total_reward=e.total_reward, length_env_steps=e.length) for e in header.episodes]
    return pb.UnrollHeader(
        slot=header.slot,
        round=header.round,
        version=header.version,
        env_steps=header.env_steps,
        episodes=episodes,
        act_s=header.act_s,
        wait_weights_s=header.wait_weights_s,
        wait_acks_s=header.wait_acks_s,
    )


def header_from_proto(message: pb.UnrollHeader) -> UnrollHeader:
    """The inverse of `header_to_proto`."""
    return UnrollHeader(
        slot=message.slot,
        round=message.round,
        version=message.version,
        env_steps=message.env_steps,
        episodes=tuple(Episode(e.total_reward, e.length_env_steps) for e in message.episodes),
        act_s=message.act_s,
        wait_weights_s=message.wait_weights_s,
        wait_acks_s=message.wait_acks_s,
    )
