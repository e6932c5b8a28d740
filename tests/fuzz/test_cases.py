"""Every case of `make fuzz` for a moment, with hypothesis in atheris's place."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import CodecError
from tests.fuzz.__main__ import NAMES, kept
from tests.fuzz.case import Decoder
from tests.fuzz.cases import CASES

INPUTS = 25


@pytest.mark.parametrize("name", CASES)
def test_hurt_inputs_break_nothing(name: str) -> None:
    case = CASES[name]()
    seeds = list(case.seeds())
    assert seeds
    for seed in seeds:
        case(seed)

    @settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.sampled_from(seeds), data=st.data())
    def throw(seed: bytes, data: st.DataObject) -> None:
        raw = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, max(0, min(len(raw), 2000) - 1)))
            what = data.draw(st.sampled_from(["flip", "cut", "put"]))
            if what == "flip" and raw:
                raw[at] = data.draw(st.integers(0, 255))
            elif what == "cut":
                del raw[at : at + data.draw(st.integers(1, 100))]
            else:
                raw[at:at] = data.draw(st.binary(max_size=10))
        case(bytes(raw))

    throw()
    case.close()


@pytest.mark.parametrize("name", CASES)
def test_what_fuzzing_found_ways_with_breaks_nothing(name: str) -> None:
    case, inputs = CASES[name](), kept(name)
    assert inputs
    for data in inputs:
        case(data)
    case.close()


def test_a_find_is_a_find() -> None:
    def broken(data: bytes) -> None:
        raise CodecError("named") if data == b"fine" else IndexError("a bug")

    case = Decoder(broken, b"fine")
    case(b"fine")
    with pytest.raises(IndexError):
        case(b"other")


def test_the_command_knows_every_case() -> None:
    assert sorted(NAMES) == sorted(CASES)
