"""Any messages: the call ends with a named error, the service lives, nothing is held. `make fuzz` looks for longer."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import rpc_server, wire
from core.compression import Compressor
from core.errors import CodecError, DeadlineError, ReplayError, SchemaError, ShoalError, TooLargeError
from core.framing import frame
from core.types import Array, Columns, Episode, UnrollHeader
from protos import experience_pb2 as pb
from replay_server import insert_stream, sample_stream
from replay_server.in_flight import Share
from tests.fuzz.calls import (
    B,
    T,
    Target,
    chunk,
    draw,
    insert_calls,
    opening,
    sample_calls,
    sample_opening,
    unroll,
)

OWN = 1 << 40
"""Incarnations from here on are of single tests: small numbers are what hypothesis draws, and ends, in any order."""
MOST_GROWTH_BYTES = 300 << 20
settings.register_profile("fuzz", deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    target = Target()
    for name, calls in (("Insert", insert_calls()), ("Sample", sample_calls())):
        for messages in calls:
            target.stream(name, messages)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    yield target
    target.check()
    target.close()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MOST_GROWTH_BYTES


def check_call(target: Target, name: str, messages: list[bytes]) -> ShoalError | None:
    """Throw it, and look at the service afterwards."""
    error = target.stream(name, messages)
    target.check()
    return error


@st.composite
def hurt(draw_: st.DrawFn, calls: list[list[bytes]]) -> list[bytes]:
    """A stream in order that was changed: bytes flipped, cut out, put in; messages left out, doubled, swapped."""
    messages = list(draw_(st.sampled_from(calls)))
    for _ in range(draw_(st.integers(1, 4))):
        at = draw_(st.integers(0, len(messages) - 1))
        what = draw_(st.sampled_from(["flip", "cut", "put", "out", "double", "swap"]))
        raw = bytearray(messages[at])
        place = draw_(st.integers(0, min(len(raw), 400)))
        if what == "flip" and place < len(raw):
            raw[place] = draw_(st.integers(0, 255))
        elif what == "cut":
            del raw[place : place + draw_(st.integers(1, 2000))]
        elif what == "put":
            raw[place:place] = draw_(st.binary(max_size=20))
        messages[at] = bytes(raw)
        if what == "out" and len(messages) > 1:
            del messages[at]
        elif what == "double":
            messages.insert(at, messages[at])
        elif what == "swap":
            messages[at], messages[0] = messages[0], messages[at]
    return messages


@pytest.mark.slow
@settings(settings.get_profile("fuzz"))
@given(messages=hurt(insert_calls()))
def test_a_hurt_insert_stream_ends_with_a_named_error(target: Target, messages: list[bytes]) -> None:
    check_call(target, "Insert", messages)


@pytest.mark.slow
@settings(settings.get_profile("fuzz"))
@given(messages=hurt(sample_calls()))
def test_a_hurt_sample_stream_ends_with_a_named_error(target: Target, messages: list[bytes]) -> None:
    check_call(target, "Sample", messages)


@settings(settings.get_profile("fuzz"))
@given(name=st.sampled_from(["Insert", "Sample"]), messages=st.lists(st.binary(max_size=200), max_size=4))
def test_noise_ends_with_a_named_error(target: Target, name: str, messages: list[bytes]) -> None:
    assert isinstance(check_call(target, name, messages), ShoalError)  # none of it opens a stream


WORDS = st.one_of(st.integers(0, 3), st.sampled_from([1 << 20, (1 << 31) - 1, (1 << 32) - 1]))
LONG_WORDS = st.one_of(WORDS, st.sampled_from([1 << 40, (1 << 63) - 1, (1 << 64) - 1]))


@settings(settings.get_profile("fuzz"))
@given(
    changes=st.fixed_dictionaries(
        {}, optional={"seq": LONG_WORDS, "part": WORDS, "parts": WORDS, "payload_bytes": LONG_WORDS}
    ),
    slot=st.integers(-2, 3),
    round_=st.integers(-(1 << 63), (1 << 63) - 1),
    env_steps=st.one_of(st.just(T * B), st.integers(-(1 << 63), (1 << 63) - 1)),
    table=st.sampled_from(["t", "staged"]),
    incarnation=LONG_WORDS,
)
def test_any_numbers_in_a_chunk(
    target: Target,
    changes: dict[str, Any],
    slot: int,
    round_: int,
    env_steps: int,
    table: str,
    incarnation: int,
) -> None:
    header = wire.header_to_proto(UnrollHeader(slot, round_, 0, env_steps))
    check_call(target, "Insert", [opening(table, 1, incarnation), chunk(header=header, **changes)])


@settings(settings.get_profile("fuzz"))
@given(
    batches=WORDS,
    batch_size=WORDS,
    apply=st.none() | st.builds(pb.Apply, round=st.integers(-3, 3), slots=st.lists(WORDS, max_size=3)),
    table=st.sampled_from(["t", "staged"]),
    number=LONG_WORDS,
    seed=LONG_WORDS,
)
def test_any_numbers_in_a_draw(
    target: Target, batches: int, batch_size: int, apply: pb.Apply | None, table: str, number: int, seed: int
) -> None:
    asked = draw(number, batches, False, batch_size=batch_size, apply=apply)
    check_call(target, "Sample", [sample_opening(table, seed=seed), asked])


def insert_columns(target: Target, columns: dict[str, Array]) -> ShoalError | None:
    payload = wire.encode(columns)
    header = wire.header_to_proto(UnrollHeader(2, 0, 0, T * B))
    head = pb.Chunk(seq=1, parts=1, header=header, payload_bytes=len(payload))
    return check_call(target, "Insert", [opening(slot=2), frame(pb.InsertRequest(chunks=[head]), [payload])])


BAD_COLUMNS: dict[str, tuple[Callable[[dict[str, Array]], Any], type[ShoalError], str]] = {
    "dtype": (lambda c: c.update(obs=c["obs"].astype("float64")), SchemaError, "column 'obs' is float64"),
    "shape": (lambda c: c.update(obs=c["obs"][..., :5]), SchemaError, "column 'obs' is float32"),
    "rows": (lambda c: c.update(valid=c["valid"][1:]), SchemaError, "column 'valid' has"),
    "unknown": (lambda c: c.update(more=c["valid"]), SchemaError, r"unknown \['more'\]"),
    "missing": (lambda c: c.pop("valid"), SchemaError, r"missing \['valid'\]"),
    "negative": (lambda c: c["priority"].fill(-1), SchemaError, "priorities are 0 or more"),
    "nan": (lambda c: c["priority"].fill(np.nan), SchemaError, "priorities are 0 or more"),
    "too many": (lambda c: c.update({n: np.repeat(a, 2, 1) for n, a in c.items()}), TooLargeError, "1 to 3 env"),
}


@pytest.mark.parametrize("what", BAD_COLUMNS)
def test_columns_that_do_not_fit(target: Target, what: str) -> None:
    change, kind, words = BAD_COLUMNS[what]
    columns = unroll()
    change(columns)
    error = insert_columns(target, columns)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=words):
        raise error


@pytest.mark.parametrize("priority", [-1.0, np.nan, np.inf])
def test_priorities_that_are_none(target: Target, priority: float) -> None:
    columns: Columns = {"key": np.arange(3), "priority": np.full(3, priority, np.float32)}
    message = frame(pb.SampleRequest(draw=pb.Draw(batches=1)), wire.parts(columns))
    error = check_call(target, "Sample", [sample_opening(), message])
    assert isinstance(error, SchemaError)


def test_a_frame_that_says_it_unpacks_to_gigabytes_takes_no_memory(target: Target) -> None:
    payload = bytearray(chunk(1, compress=True))
    at = payload.index(b"\x28\xb5\x2f\xfd")  # a zstd frame
    payload[at + 4 : at + 13] = b"\xe0" + (1 << 40).to_bytes(8, "little")
    assert isinstance(check_call(target, "Insert", [opening(slot=0, incarnation=OWN + 9), bytes(payload)]), CodecError)


def test_parts_that_never_end_are_bounded(target: Target) -> None:
    chunks = [chunk(1, part=part, parts=1 << 31) for part in range(5)]
    assert isinstance(check_call(target, "Insert", [opening(slot=0, incarnation=OWN + 8), *chunks]), TooLargeError)


def test_a_sample_larger_than_allowed(target: Target) -> None:
    error = check_call(target, "Sample", [sample_opening(), draw(0, 3, False)])
    assert isinstance(error, ReplayError)
    assert "the limit of table 't' is 16 items" in str(error)


@pytest.mark.parametrize("round_", [-1, -(1 << 63), (1 << 53) + 1])
def test_a_round_that_no_run_comes_to(target: Target, round_: int) -> None:
    header = wire.header_to_proto(UnrollHeader(0, round_, 0, T * B))
    error = check_call(target, "Insert", [opening(incarnation=OWN + round_ % 99 + 50), chunk(header=header)])
    assert isinstance(error, SchemaError)
    assert f"the header says round {round_}" in str(error)


def test_more_episodes_than_an_unroll_can_end(target: Target) -> None:
    header = wire.header_to_proto(UnrollHeader(0, 0, 0, T * B, (Episode(1.0, 1),) * (T * B + 1)))
    error = check_call(target, "Insert", [opening(incarnation=OWN + 30), chunk(header=header)])
    assert isinstance(error, SchemaError)
    assert "13 episodes, its 12 rows end 12 at most" in str(error)


def test_a_slot_that_is_no_slot(target: Target) -> None:
    error = check_call(target, "Insert", [opening(slot=1 << 31), chunk()])
    assert isinstance(error, CodecError)
    assert "slot 2147483648 is over the limit" in str(error)


def test_a_head_that_is_larger_than_any_payload(target: Target) -> None:
    crowd = pb.InsertRequest(chunks=[pb.Chunk(seq=1)] * (1 << 19)).SerializeToString()
    error = check_call(target, "Insert", [opening(incarnation=OWN + 31), crowd])
    assert isinstance(error, TooLargeError)
    assert "besides its payload, the limit is 1,048,576: send fewer chunks" in str(error)


def test_priorities_that_unpack_to_more_than_was_sent(target: Target) -> None:
    columns: Columns = {"key": np.zeros(5000, np.int64), "priority": np.ones(5000, np.float32)}
    message = frame(pb.SampleRequest(draw=pb.Draw(batches=1)), wire.parts(columns, Compressor()))
    error = check_call(target, "Sample", [sample_opening(), message])
    assert isinstance(error, SchemaError)
    assert "not compressed" in str(error)


def test_too_many_priorities(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_stream, "MOST_PRIORITIES", 7)
    error = check_call(target, "Sample", [sample_opening(), draw(0)])
    assert isinstance(error, SchemaError)
    assert "8 priorities came, the limit is 7" in str(error)


@pytest.mark.parametrize("name", ["Insert", "Sample"])
def test_a_stream_that_says_nothing_is_ended(target: Target, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "FIRST_MESSAGE_S", 0.01)
    error = target.stream(name, [], patience_s=5.0, hangs=True)
    assert isinstance(error, DeadlineError)
    assert "first message did not come within 0.01 s" in str(error)
    target.check()


def test_an_item_whose_rest_never_comes_is_let_go(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insert_stream, "PART_TIMEOUT_S", 0.01)
    messages = [opening(incarnation=OWN + 32), chunk(1, part=0, parts=2)]
    error = target.stream("Insert", messages, patience_s=5.0, hangs=True)
    assert isinstance(error, DeadlineError)
    assert "the next part of an item did not come within 0.01 s" in str(error)
    target.check()


def test_a_compressed_item_counts_with_what_it_unpacks_to(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def hold(self: Share, nbytes: int) -> None:
        nonlocal most
        plain_hold(self, nbytes)
        most = max(most, self.nbytes)

    plain_hold = Share.hold
    monkeypatch.setattr(Share, "hold", hold)
    assert check_call(target, "Insert", [opening(incarnation=OWN + 33), chunk(1, compress=True)]) is None
    assert most > unroll()["obs"].nbytes > 3 * len(chunk(1, compress=True))


def test_streams_in_the_middle_of_items_that_fill_the_budget_read_on(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = wire.encode(unroll())
    size = -(-len(payload) // 3 // 64) * 64
    header = wire.header_to_proto(UnrollHeader(0, 0, 0, T * B))
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    heads = [pb.Chunk(seq=1, part=i, parts=3, header=header, payload_bytes=len(part)) for i, part in enumerate(parts)]
    messages = [frame(pb.InsertRequest(chunks=[head]), [part]) for head, part in zip(heads, parts, strict=True)]
    monkeypatch.setattr(target.service.arriving, "most_bytes", 100)  # the item alone fills it
    before = target.service.hosted("t").table.inserted
    assert target.stream("Insert", [opening(incarnation=OWN + 40), *messages], patience_s=10.0) is None
    assert target.service.hosted("t").table.inserted > before
    target.check()


def test_a_draw_that_waits_for_memory_is_told_so(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = target.service.hosted("t")
    monkeypatch.setattr(target.service.leaving, "most_bytes", 100)
    hosted.leaving.hold(60)
    replies: list[pb.SampleReply] = []
    assert target.stream("Sample", [sample_opening(), draw(0)], patience_s=0.3, hangs=True, replies=replies) is None
    hosted.leaving.release(60)
    assert any("60 of 100 bytes hold items" in reply.reason for reply in replies[1:])
    target.check()


def test_what_is_staged_keeps_no_message(target: Target) -> None:
    header = wire.header_to_proto(UnrollHeader(5, 9, 0, T * B))
    assert target.stream("Insert", [opening("staged", 5, 50), chunk(1, header=header)], hangs=True) is None
    staged = target.service.hosted("staged").table._staging._unrolls[9, 5]
    assert all(column.base is None for column in staged.columns.values())
