"""core/compression.py: smaller where it pays, the same bytes back, and no announced size is believed."""

from __future__ import annotations

import numpy as np
import pytest

from core import wire
from core.compression import LEAST_BYTES, PAUSE, Compressor, crosses_network, decompress
from core.errors import CodecError, TooLargeError
from core.types import Columns


def frames(rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Flat pictures with a few marks."""
    pictures = np.full((4, 84, 84), 87, np.uint8)
    pictures[rng.integers(0, 4, 50), rng.integers(0, 84, 50), rng.integers(0, 84, 50)] = 236
    return pictures


def test_columns_come_back_and_frames_get_smaller(rng: np.random.Generator) -> None:
    columns: Columns = {"obs": frames(rng), "noise": rng.random(2000), "small": np.arange(4)}
    payload = wire.encode(columns, Compressor())
    assert len(payload) < len(wire.encode(columns)) - 20_000
    entries = {entry.name: entry.stored_bytes for entry in wire.read_header(payload).entries}
    assert entries["noise"] is None
    assert entries["small"] is None
    found = wire.decode(payload)
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].dtype == column.dtype


def test_what_does_not_get_smaller_is_left_alone_for_a_while(rng: np.random.Generator) -> None:
    compressor, noise, flat = Compressor(), rng.bytes(LEAST_BYTES), bytes(LEAST_BYTES)
    assert compressor.compress("x", noise) is None
    assert [compressor.compress("x", flat) is None for _ in range(PAUSE)] == [True] * PAUSE
    assert compressor.compress("x", flat) is not None
    assert compressor.compress("x", flat[:-1]) is None


def test_a_frame_of_another_size_is_refused_before_it_is_unpacked() -> None:
    small = Compressor().compress("x", bytes(LEAST_BYTES))
    assert small is not None
    assert decompress("x", small, LEAST_BYTES) == bytes(LEAST_BYTES)
    for nbytes in (0, LEAST_BYTES - 1, 1 << 40):
        with pytest.raises(CodecError, match="unpacks to another size"):
            decompress("x", small, nbytes)
    with pytest.raises(CodecError, match="no zstd frame"):
        decompress("x", b"nothing of the kind", 10)
    with pytest.raises(CodecError, match="no zstd frame"):
        decompress("x", small[:-3], LEAST_BYTES)


def test_a_payload_that_would_unpack_to_gigabytes_is_refused() -> None:
    header = wire._pack([["x", "|u1", [1 << 40], 64]], [bytes(64)])
    with pytest.raises(TooLargeError, match="unpack to 1099511627776 bytes"):
        wire.decode(header + bytes(64))


@pytest.mark.parametrize(
    ("address", "crosses"),
    [
        ("unix:/tmp/s", False),
        ("127.0.0.1:7777", False),
        ("localhost:1", False),
        ("[::1]:1", False),
        (":7777", False),
        ("10.0.0.3:7777", True),
        ("learner:7777", True),
        ("[2001:db8::1]:7", True),
    ],
)
def test_only_what_leaves_the_machine_crosses_a_network(address: str, crosses: bool) -> None:
    assert crosses_network(address) is crosses
