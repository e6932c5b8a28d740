"""core/wire.py: round trips, true views, and nothing but wire errors whatever the bytes are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import wire
from core.errors import CodecError, SchemaError, TooLargeError, WireError
from core.framing import ALIGNMENT_BYTES
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Array, Episode, UnrollHeader
from replay_server.reports import MERGED_SLOT, Reports

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
SIGNATURE = Signature(
    {"obs": ColumnSpec(ArraySpec((2,), "float32"), extra_rows=1), "valid": ColumnSpec(ArraySpec((), "uint8"))}, 4, 3
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any dtype that travels; empty axes, no trailing axes, and bit patterns that are NaN or infinity."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    array: Array = np.frombuffer(data, "u1" if dtype.kind == "b" else dtype).reshape(shape)
    return array % 2 == 1 if dtype.kind == "b" else array


columns_of_any_kind = st.dictionaries(st.text(max_size=8), arrays(), max_size=5)


def item(rows: int = 4, envs: int = 3) -> dict[str, Array]:
    obs = np.arange((rows + 1) * envs * 2, dtype=np.float32).reshape(rows + 1, envs, 2)
    return {"obs": obs, "valid": np.ones((rows, envs), np.uint8)}


def payload_of(header: Any, raw: bytes = b"") -> bytes:
    """A payload with a header of the test's own."""
    packed: bytes = msgpack.packb(header)
    return struct.pack("<I", len(packed)) + packed + bytes(-(4 + len(packed)) % 64) + raw


@given(columns_of_any_kind)
def test_round_trip(columns: dict[str, Array]) -> None:
    decoded = wire.decode(wire.encode(columns))
    assert list(decoded) == list(columns)
    for name, column in columns.items():
        assert (decoded[name].dtype, decoded[name].shape) == (column.dtype, column.shape)
        assert decoded[name].tobytes() == column.tobytes()


def test_what_is_not_contiguous_travels_too() -> None:
    column = np.arange(24, dtype=np.int32).reshape(4, 3, 2)
    decoded = wire.decode(wire.encode({"turned": column.swapaxes(0, 1), "thin": column[::2, :, 1]}))
    np.testing.assert_array_equal(decoded["turned"], column.swapaxes(0, 1))
    np.testing.assert_array_equal(decoded["thin"], column[::2, :, 1])


def test_decoding_gives_aligned_read_only_views() -> None:
    payload = wire.encode({"a": np.ones((3, 1), np.uint8), **item(), "z": np.ones((2, 2), np.float64)})
    whole = np.frombuffer(payload, np.uint8)
    offsets = []
    for column in wire.decode(payload).values():
        assert np.shares_memory(column, whole)
        assert not column.flags.writeable
        assert column.flags.c_contiguous
        offsets.append(column.ctypes.data - whole.ctypes.data)
    assert [offset % ALIGNMENT_BYTES for offset in offsets] == [0, 0, 0, 0]
    assert offsets == sorted(set(offsets))
    assert len(payload) % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize("dtype", [">f4", "S3", "M8[s]", "complex64", "O"])
def test_dtypes_that_do_not_travel_are_refused(dtype: str) -> None:
    with pytest.raises(CodecError, match="column 'odd' has dtype"):
        wire.encode({"odd": np.zeros((2, 2), dtype)})


def decode_raises(payload: bytes) -> Exception | None:
    try:
        columns = wire.decode(payload)
        wire.check(columns, SIGNATURE)
    except Exception as error:
        return error
    return None


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_wire_error(data: bytes) -> None:
    assert isinstance(decode_raises(data), WireError)


@given(st.binary(max_size=200))
def test_any_header_is_refused_with_a_wire_error(packed: bytes) -> None:
    framed = struct.pack("<I", len(packed)) + packed + bytes(128)
    assert isinstance(decode_raises(framed), WireError)


headers_of_any_kind = st.lists(
    st.one_of(
        st.none(),
        st.tuples(
            st.one_of(st.text(max_size=3), st.none(), st.just("obs"), st.just("valid")),
            st.one_of(st.sampled_from(["|u1", "<f4", "|O", "f4", ""]), st.integers(-1, 1)),
            st.one_of(st.lists(st.one_of(st.integers(-1, 2**64 - 1), st.booleans()), max_size=20), st.none()),
            st.one_of(st.integers(-64, 256), st.sampled_from([2**63, 2**64 - 64]), st.floats(), st.booleans()),
        ),
    ),
    max_size=4,
)


@given(headers_of_any_kind, st.binary(max_size=300))
def test_any_well_formed_header_gives_views_or_a_wire_error(header: Any, raw: bytes) -> None:
    error = decode_raises(payload_of(header, raw))
    assert error is None or isinstance(error, WireError)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 200))
def test_a_mutated_payload_gives_views_or_a_wire_error(changes: Sequence[tuple[int, int]], cut: int) -> None:
    payload = bytearray(wire.encode(item()))
    for at, value in changes:
        payload[at % 100] = value  # the header, where a change matters
    error = decode_raises(bytes(payload[: len(payload) - cut]))
    assert error is None or isinstance(error, WireError)


RAW = bytes(64)
GOOD = ["x", "|u1", [8, 8], 0]
MALFORMED: list[tuple[bytes, type[WireError], str]] = [
    (b"", CodecError, "0 bytes has no header"),
    (struct.pack("<I", 1 << 17) + RAW, TooLargeError, "131072 bytes, the limit is 65536"),
    (struct.pack("<I", 100) + RAW, CodecError, "ends at byte 104 of a payload of 68"),
    (struct.pack("<I", 2) + b"\x91\x91" + RAW, CodecError, "not msgpack"),
    (payload_of({"x": 1}), CodecError, "no list"),
    (payload_of([GOOD] * 257, RAW), CodecError, "at most 256"),
    (payload_of([["x", "|u1", [8]]], RAW), CodecError, "name, dtype, shape, offset"),
    (payload_of([["x", "|O", [8], 0]], RAW), CodecError, "does not travel"),
    (payload_of([["x", "|u1", [-8], 0]], RAW), CodecError, "has shape"),
    (payload_of([["x", "|u1", [True], 0]], RAW), CodecError, "has shape"),
    (payload_of([["x", "|u1", [1] * 17, 0]], RAW), CodecError, "has shape"),
    (payload_of([["x", "|u1", [8], 1]], RAW), CodecError, "offset 1, not a multiple of 64"),
    (payload_of([["x", "|u1", [8], -64]], RAW), CodecError, "offset -64"),
    (payload_of([["x", "|u1", [8], 2**64 - 64]], RAW), CodecError, "columns end at byte"),
    (payload_of([["x", "<f4", [17], 0]], RAW), CodecError, "columns end at byte"),
    (payload_of([["x", "<f8", [2**40, 2**40], 0]], RAW), CodecError, "columns end at byte"),
    (payload_of([["x", "<f8", [0, 2**63], 0]], RAW), CodecError, "has shape"),
    (payload_of([["x", "<f8", [0, 2**40, 2**40], 0]], RAW), CodecError, "has shape"),
    (payload_of([GOOD, GOOD], RAW), CodecError, "comes twice"),
]


@pytest.mark.parametrize(("payload", "kind", "words"), MALFORMED, ids=map(str, range(len(MALFORMED))))
def test_malformed_payloads_are_refused_by_name(payload: bytes, kind: type[WireError], words: str) -> None:
    with pytest.raises(kind, match=words):
        wire.decode(payload)


def test_a_size_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was allocated")

    for name in ("frombuffer", "empty", "zeros", "array"):
        monkeypatch.setattr(np, name, refuse)
    with pytest.raises(CodecError):
        wire.decode(payload_of([["x", "<f8", [2**40], 0]], RAW))
    monkeypatch.setattr(msgpack, "unpackb", refuse)
    with pytest.raises(TooLargeError):
        wire.decode(struct.pack("<I", wire.MAX_HEADER_BYTES + 1) + bytes(wire.MAX_HEADER_BYTES + 1))


def test_check_gives_rows_and_environments() -> None:
    assert wire.check(item(), SIGNATURE) == (4, 3)
    assert wire.check(item(1, 2), SIGNATURE) == (1, 2)


MISFITS: list[tuple[dict[str, Array], type[WireError], str]] = [
    ({"obs": item()["obs"]}, SchemaError, r"missing \['valid'\]"),
    ({**item(), "more": item()["obs"]}, SchemaError, r"unknown \['more'\]"),
    ({**item(), "valid": np.ones((4, 3), np.int8)}, SchemaError, "'valid' is int8"),
    ({**item(), "valid": np.ones((4, 3, 1), np.uint8)}, SchemaError, "'valid' is uint8"),
    ({**item(), "valid": np.ones(4, np.uint8)}, SchemaError, "'valid' is uint8"),
    ({**item(), "valid": np.ones((5, 3), np.uint8)}, SchemaError, r"\[5, 3\], the ones before it \[4, 3\]"),
    ({**item(), "valid": np.ones((4, 2), np.uint8)}, SchemaError, r"\[4, 2\], the ones before it \[4, 3\]"),
    (item(5, 3), TooLargeError, r"\[5, 3\]; the table takes 1 to 4 rows of 1 to 3"),
    (item(4, 4), TooLargeError, r"\[4, 4\]"),
    (item(0, 3), TooLargeError, r"\[0, 3\]"),
    (item(4, 0), TooLargeError, r"\[4, 0\]"),
]


@pytest.mark.parametrize(("columns", "kind", "words"), MISFITS, ids=map(str, range(len(MISFITS))))
def test_items_that_do_not_fit_are_refused_by_column(columns: Any, kind: type[WireError], words: str) -> None:
    with pytest.raises(kind, match=words):
        wire.check(columns, SIGNATURE)


def test_headers_travel_whole() -> None:
    header = UnrollHeader(3, 7, 6, 90, (Episode(1.5, 20), Episode(-2.0, 70)), 0.25, 0.5, 0.75)
    assert wire.header_from_proto(wire.header_to_proto(header)) == header


def test_a_header_that_stands_for_several_unrolls_travels_too() -> None:
    reports = Reports(limit=1)
    for slot in range(3):
        reports.add(UnrollHeader(slot, 5, 5, 10))
    merged = reports.drain()[0]
    assert merged.slot == MERGED_SLOT
    assert wire.header_from_proto(wire.header_to_proto(merged)) == merged
