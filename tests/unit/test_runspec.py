"""core/runspec.py: what an actor is told survives the wire; versions of rounds."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CodecError
from core.runspec import RunSpec

SPEC = RunSpec(
    algorithm="ppo",
    settings={"hidden": [64, 64], "gamma": 0.99, "anneal": True, "clip": None},
    env="CartPole-v1",
    env_kwargs={"g": 9.8},
    env_wrappers=["FlattenObservation"],
    imports=["my.module"],
    envs_per_actor=8,
    slots=2,
    seed=(1 << 63) - 1,
    budget_env_steps=10**12,
    lag=1,
    first_version=0,
    restart_every_rounds=10,
    table="experience",
    manifest="abc",
    window_chunks=2,
    max_chunk_bytes=1 << 20,
    max_message_bytes=64 << 20,
    keepalive_s=10.0,
    learner_patience_s=30.0,
    step_deadline_s=60.0,
)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, lag=None, settings={}, env_kwargs={})])
def test_it_survives_the_wire(spec: RunSpec) -> None:
    assert RunSpec.unpack(spec.pack()) == spec


@pytest.mark.parametrize(
    ("lag", "first", "versions"),
    [
        (0, 0, [0, 1, 2, 3]),
        (1, 0, [0, 0, 1, 2]),
        (2, 0, [0, 0, 0, 1]),
    ],
)
def test_versions_of_the_first_rounds(lag: int, first: int, versions: list[int]) -> None:
    spec = replace(SPEC, lag=lag, first_version=first)
    assert [spec.version_of(round_) for round_ in range(4)] == versions


def test_a_resumed_run_never_wants_a_version_from_before_it() -> None:
    spec = replace(SPEC, lag=1, first_version=20)
    assert [spec.version_of(round_) for round_ in (20, 21, 22)] == [20, 20, 21]


def test_environments_restart_in_their_rounds() -> None:
    assert [round_ for round_ in range(31) if SPEC.restarts(round_)] == [0, 10, 20, 30]
    assert not any(replace(SPEC, restart_every_rounds=0).restarts(round_) for round_ in range(31))


def test_async_wants_the_newest() -> None:
    assert replace(SPEC, lag=None).version_of(7) is None


@pytest.mark.parametrize("packed", [b"", b"\xc1", msgpack.packb(3), msgpack.packb([]), msgpack.packb({"seed": 1})])
def test_what_cannot_be_read_is_a_codec_error(packed: bytes) -> None:
    with pytest.raises(CodecError, match="run description of the learner cannot be read"):
        RunSpec.unpack(packed)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_a_spec_or_a_codec_error(at: int, value: int) -> None:
    packed = bytearray(SPEC.pack())
    packed[at % len(packed)] = value
    try:
        spec = RunSpec.unpack(bytes(packed))
    except CodecError:
        return
    assert isinstance(spec, RunSpec)
