"""Columns to bytes and back. Called by actors (encode), servers (decode, check) and the learner (both).

    u32 header bytes | msgpack [[name, dtype, shape, offset(, stored bytes)], ...] | zeros to 64 bytes | raw columns

Offsets count from the start of the raw area and are multiples of 64, so decoding gives aligned views of the payload
and copies nothing. A column with `stored bytes` is compressed with zstd. A payload is checked against its own length,
and `check` against a table's signature, before anything is allocated for it. Headers repeat, so both directions
remember the last few hundred. Pure functions otherwise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from core.compression import Compressor, decompress
from core.errors import CodecError, SchemaError, TooLargeError
from core.framing import ALIGNMENT_BYTES, Buffer
from core.specs import DTYPES, MAX_COLUMNS, MAX_DIMENSIONS, Signature
from core.types import Array, Columns, Episode, UnrollHeader
from protos import experience_pb2 as pb

MAX_HEADER_BYTES = 1 << 16
MAX_UNPACKED_BYTES = 1 << 31
_REMEMBERED = 512
_DTYPES = {name: np.dtype(name) for name in DTYPES}
_LENGTH = struct.Struct("<I")
_ZEROS = bytes(ALIGNMENT_BYTES)


def _padding(size: int) -> int:
    return -size % ALIGNMENT_BYTES


# ---------------------------------------------------------------------------------------------------- columns to bytes


def parts(columns: Columns, compressor: Compressor | None = None) -> list[Buffer]:
    """The payload as buffers in order, a multiple of 64 bytes in all; views of the columns where they are contiguous.

    Raises CodecError for a dtype that has no place here.
    """
    arrays = [np.ascontiguousarray(column) for column in columns.values()]
    if compressor is None:
        shapes = tuple([(name, a.dtype, a.shape) for name, a in zip(columns, arrays, strict=True)])
        head = _known_heads.get(shapes)
        if head is None:
            head = _remember(_known_heads, shapes, _pack([_plain(*shape) for shape in shapes], arrays))
        stored: list[Buffer] = [a.data.cast("B") if a.size else b"" for a in arrays]
    else:
        entries, stored = [], []
        for name, array in zip(columns, arrays, strict=True):
            plain, raw = _plain(name, array.dtype, array.shape), array.data.cast("B") if array.size else b""
            small = compressor.compress(name, raw)
            entries.append(plain if small is None else [*plain, len(small)])
            stored.append(raw if small is None else small)
        head = _pack(entries, stored)
    buffers: list[Buffer] = [head]
    for raw in stored:
        buffers.append(raw)
        if padding := _padding(len(raw)):
            buffers.append(_ZEROS[:padding])
    return buffers


def encode(columns: Columns, compressor: Compressor | None = None) -> bytes:
    """`parts` in one piece: one copy of every column, in the order of the mapping."""
    return b"".join(parts(columns, compressor))


_known_heads: dict[tuple[Any, ...], bytes] = {}


def _plain(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[Any]:
    if dtype.str not in _DTYPES:
        raise CodecError(f"column {name!r} has dtype {dtype}; only little-endian numbers and bool travel")
    return [name, dtype.str, shape]


def _pack(entries: list[list[Any]], stored: list[Any]) -> bytes:
    """The header of columns stored one after the other, and its padding."""
    at, header = 0, []
    for (name, dtype, shape, *size), raw in zip(entries, stored, strict=True):
        header.append((name, dtype, shape, at, *size))
        length = raw.nbytes if isinstance(raw, np.ndarray) else len(raw)
        at += length + _padding(length)
    packed: bytes = msgpack.packb(header)
    return b"".join((_LENGTH.pack(len(packed)), packed, _ZEROS[: _padding(_LENGTH.size + len(packed))]))


def _remember(known: dict[Any, Any], key: Any, value: Any) -> Any:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
    return value


# ---------------------------------------------------------------------------------------------------- bytes to columns


@dataclass(frozen=True)
class Entry:
    """One column of a payload; `stored_bytes` None: as it is, else its compressed size."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stored_bytes: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the column itself."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """What a payload says of itself. `start` is where its raw area begins."""

    entries: tuple[Entry, ...]
    start: int
    end: int
    compressed_bytes: int = 0
    """Of the columns that come compressed, once unpacked."""


def read_header(payload: Buffer) -> Header:
    """Raises CodecError or TooLargeError; allocates nothing for the columns."""
    if len(payload) < _LENGTH.size:
        raise CodecError(f"a payload of {len(payload)} bytes has no header")
    (size,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + size
    if size > MAX_HEADER_BYTES:
        raise TooLargeError(f"the header has {size} bytes, the limit is {MAX_HEADER_BYTES}")
    if end > len(payload):
        raise CodecError(f"the header ends at byte {end} of a payload of {len(payload)}")
    packed = bytes(payload[_LENGTH.size : end])
    header: Header | None = _known_headers.get(packed)
    if header is None:
        header = _remember(_known_headers, packed, _parse(packed, end + _padding(end)))
    if header.end > len(payload):
        raise CodecError(f"the columns end at byte {header.end} of a payload of {len(payload)}")
    return header


_known_headers: dict[bytes, Header] = {}


def decode(payload: Buffer, header: Header | None = None) -> dict[str, Array]:
    """Read-only views of `payload`, and new arrays for compressed columns. Raises CodecError or TooLargeError.

    Whoever reads what others send looks at the header first: `check_header` bounds what compressed columns unpack to.
    """
    header = header or read_header(payload)
    if header.compressed_bytes > MAX_UNPACKED_BYTES:
        raise TooLargeError(f"columns unpack to {header.compressed_bytes} bytes, the limit is {MAX_UNPACKED_BYTES}")
    columns: dict[str, Array] = {}
    for entry in header.entries:
        at, raw = header.start + entry.offset, payload
        if entry.stored_bytes is not None:
            raw, at = decompress(entry.name, raw[at : at + entry.stored_bytes], entry.nbytes), 0
        try:
            columns[entry.name] = np.frombuffer(raw, entry.dtype, math.prod(entry.shape), at).reshape(entry.shape)
        except ValueError as error:  # no numbers, and yet an axis that numpy cannot have
            raise CodecError(f"column {entry.name!r} has shape {list(entry.shape)}: {error}") from error
    return columns


def _parse(packed: bytes, start: int) -> Header:
    try:
        header = msgpack.unpackb(packed, use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CodecError(f"the header is not msgpack: {error}") from error
    if not isinstance(header, list) or len(header) > MAX_COLUMNS:
        raise CodecError(f"the header is no list of at most {MAX_COLUMNS} columns")
    entries = tuple(_entries(header))
    ends = (e.offset + (e.nbytes if e.stored_bytes is None else e.stored_bytes) for e in entries)
    unpacked = sum(e.nbytes for e in entries if e.stored_bytes is not None)
    return Header(entries, start, start + max(ends, default=0), unpacked)


def _entries(header: list[Any]) -> Iterator[Entry]:
    seen = set()
    for plain in header:
        entry = _entry(plain)
        if entry.name in seen:
            raise CodecError(f"column {entry.name!r} comes twice")
        seen.add(entry.name)
        yield entry


def _entry(plain: Any) -> Entry:
    if not isinstance(plain, list) or len(plain) not in (4, 5):
        raise CodecError(f"a column is [name, dtype, shape, offset(, stored bytes)], not {str(plain)[:80]}")
    name, dtype, shape, offset, *stored = plain
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CodecError(f"column {str(name)[:80]!r} has dtype {str(dtype)[:40]!r}, which does not travel")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError(f"column {name!r} has shape {str(shape)[:80]}, not a list of at most {MAX_DIMENSIONS} sizes")
    if type(offset) is not int or offset < 0 or offset % ALIGNMENT_BYTES:
        raise CodecError(f"column {name!r} has offset {offset!r}, not a multiple of {ALIGNMENT_BYTES}")
    if stored and (type(stored[0]) is not int or stored[0] < 1):
        raise CodecError(f"column {name!r} is stored in {stored[0]!r} bytes, not in a number of at least 1")
    return Entry(name, _DTYPES[dtype], tuple(shape), offset, stored[0] if stored else None)


# ---------------------------------------------------------------------------------------------------- signatures


def check_header(header: Header, signature: Signature) -> tuple[int, int]:
    """(T, B) of an item that fits the signature. Raises SchemaError or TooLargeError naming the column."""
    found = {entry.name: entry for entry in header.entries}
    if found.keys() != signature.columns.keys():
        missing = sorted(signature.columns.keys() - found.keys())
        unknown = sorted(found.keys() - signature.columns.keys())
        raise SchemaError(
            f"columns do not fit the table: missing {missing}, unknown {unknown}; it has {sorted(signature.columns)}"
        )
    rows = envs = -1
    for name, spec in signature.columns.items():
        entry, want = found[name], spec.array
        if entry.dtype != np.dtype(want.dtype) or entry.shape[2:] != want.shape or len(entry.shape) < 2:
            raise SchemaError(
                f"column {name!r} is {entry.dtype}{list(entry.shape)}, the table takes {want.dtype}[T, B, "
                f"{', '.join(map(str, want.shape))}]"
            )
        size = (entry.shape[0] - spec.extra_rows, entry.shape[1])
        if (rows, envs) not in ((-1, -1), size):
            raise SchemaError(f"column {name!r} has [T, B] = {list(size)}, the ones before it {[rows, envs]}")
        rows, envs = size
    if not (0 < rows <= signature.max_rows and 0 < envs <= signature.max_envs):
        raise TooLargeError(
            f"the item has [T, B] = {[rows, envs]}; the table takes 1 to {signature.max_rows} rows "
            f"of 1 to {signature.max_envs} environments"
        )
    return rows, envs


def check(columns: Columns, signature: Signature) -> tuple[int, int]:
    """`check_header` for columns that are not encoded yet."""
    entries = tuple(Entry(name, a.dtype, a.shape, 0, None) for name, a in columns.items())
    return check_header(Header(entries, 0, 0), signature)


# ---------------------------------------------------------------------------------------------------- unroll headers


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
        restarted=header.restarted,
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
        restarted=message.restarted,
    )
