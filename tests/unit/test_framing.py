"""core/framing.py: plain protobuf on the wire, no copy of the payload, and nothing malformed gets through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CodecError
from core.framing import ALIGNMENT_BYTES, frame, unframe
from protos import experience_pb2 as pb

HEADS = st.builds(
    lambda draw, reason, waited: pb.SampleReply(draw=draw, reason=reason, waited_s=waited),
    st.integers(0, 2**64 - 1),
    st.text(max_size=200),
    st.floats(allow_nan=False),
)


@given(HEADS, st.lists(st.binary(max_size=300), max_size=5))
def test_round_trip_and_plain_protobuf(head: pb.SampleReply, buffers: list[bytes]) -> None:
    data = frame(head, buffers)
    message, payload = unframe(pb.SampleReply, data)
    assert message == head
    assert bytes(payload) == b"".join(buffers)
    plain = pb.SampleReply.FromString(data)
    assert (plain.draw, plain.reason, plain.payload) == (head.draw, head.reason, b"".join(buffers))


@given(HEADS, st.binary(min_size=1, max_size=300))
def test_a_message_that_protobuf_wrote_is_read_too(head: pb.SampleReply, payload: bytes) -> None:
    whole = pb.SampleReply()
    whole.CopyFrom(head)
    whole.payload = payload
    message, found = unframe(pb.SampleReply, whole.SerializeToString())
    assert (message, bytes(found)) == (head, payload)


@given(HEADS, st.integers(1, 1000))
def test_the_payload_is_aligned_and_a_view(head: pb.SampleReply, size: int) -> None:
    data = frame(head, [bytes(size)])
    payload = unframe(pb.SampleReply, data).payload
    assert (len(data) - len(payload)) % ALIGNMENT_BYTES == 0
    assert payload.obj is data
    assert np.shares_memory(np.frombuffer(payload, np.uint8), np.frombuffer(data, np.uint8))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_codec_error(data: bytes) -> None:
    try:
        message, payload = unframe(pb.InsertRequest, data)
    except CodecError:
        return
    assert isinstance(message, pb.InsertRequest)
    assert len(payload) <= len(data)


@given(HEADS, st.binary(min_size=1, max_size=100), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_gives_a_message_or_a_codec_error(
    head: pb.SampleReply, payload: bytes, at: int, byte: int
) -> None:
    data = bytearray(frame(head, [payload]))
    data[at % len(data)] = byte
    try:
        found = unframe(pb.SampleReply, bytes(data))
    except CodecError:
        return
    assert len(found.payload) <= len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7a\x05abc", "it must come last"),
        (b"\x7a\x02abc", "it must come last"),
        (b"\x7a", "middle of a number"),
        (b"\x80" * 11, "more than 10 bytes"),
        (b"\x0b", "a field of kind 3"),
        (b"\x12\x09a", "middle of a field"),
        (b"\x09\x01", "middle of a field"),
        (b"\x12\x01\xff", "is no InsertRequest"),
    ],
)
def test_malformed_messages_are_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        unframe(pb.InsertRequest, data)
