"""core/fields.py: any frozen dataclass from plain values, every problem found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from core import fields
from core.fields import Settings, bounded, build


@dataclass(frozen=True)
class Inner(Settings):
    size: int = bounded(3, low=1)


@dataclass(frozen=True)
class Own(Settings):
    rate: float = bounded(0.1, above=0)
    gamma: float = bounded(0.99, low=0, below=1)
    hidden: tuple[int, ...] = bounded((64, 64), low=1)
    betas: tuple[float, float] = (0.9, 0.999)
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    limit: float | Literal["auto"] | None = bounded(None, high=10)
    inner: Inner = field(default_factory=Inner)

    def contradictions(self) -> list[str]:
        return ["kind: 'b' needs flag"] if self.kind == "b" and not self.flag else []


@dataclass(frozen=True)
class Required:
    size: int
    name: str = "x"


def test_build_takes_every_kind_of_field() -> None:
    plain = {"rate": "1e-4", "hidden": [1, "2"], "betas": [0, 1], "kind": "b", "flag": "true", "inner": {"size": 5}}
    own, problems = build(Own, plain)
    assert problems == []
    assert own == Own(1e-4, 0.99, (1, 2), (0.0, 1.0), "b", True, None, Inner(5))
    assert build(Own, {"limit": "auto"})[0] == Own(limit="auto")
    assert build(Own, fields.plain(own))[0] == own


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"rate": 0}, "x.rate: must be more than 0, not 0"),
        ({"gamma": 1.0}, "x.gamma: must be less than 1, not 1.0"),
        ({"gamma": float("nan")}, "x.gamma: must be a number, not nan"),
        ({"gamma": 10**400}, f"x.gamma: must be a number, not {10**400}"),
        ({"hidden": [64, 0]}, "x.hidden: must be at least 1, not [64, 0]"),
        ({"hidden": 64}, "x.hidden: must be a list such as [64, 64], not 64"),
        ({"hidden": [1, "x"]}, "x.hidden: every element must be a whole number, not [1, 'x']"),
        ({"betas": [1]}, "x.betas: must be a list of 2 values, not [1]"),
        ({"flag": 1}, "x.flag: must be true or false, not 1"),
        ({"limit": 11}, "x.limit: must be at most 10, not 11"),
        ({"limit": "no"}, "x.limit: must be a number or one of auto or null, not 'no'"),
        ({"inner": {"size": 0}}, "x.inner.size: must be at least 1, not 0"),
        ({"inner": {"siz": 0}}, "x.inner.siz: no such setting; did you mean 'x.inner.size'?"),
        ({"inner": 3}, "x.inner: must be a section of names and values, not 3"),
        ({"kind": "b"}, "x.kind: 'b' needs flag"),
        ({"gama": 1}, "x.gama: no such setting; did you mean 'x.gamma'?"),
    ],
)
def test_build_says_what_is_wrong(plain: dict[str, Any], problem: str) -> None:
    assert build(Own, plain, "x")[1] == [problem]


def test_what_is_right_is_kept_beside_what_is_wrong() -> None:
    own, problems = build(Own, {"gamma": 5, "flag": True, "inner": {"size": -1}})
    assert len(problems) == 2
    assert own == Own(flag=True)
    assert build(Own, {"kind": "b"})[0] is None


def test_a_field_without_default_must_be_given() -> None:
    assert build(Required, {"nam": 1}) == (
        None,
        ["nam: no such setting; did you mean 'name'?", "size: must be given"],
    )
    assert build(Required, {"size": "x"}) == (None, ["size: must be a whole number, not 'x'"])
    assert build(Required, {"size": 1}) == (Required(1), [])


def test_a_kind_of_field_that_cannot_be_read_is_the_programmers_mistake() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: bytes = b""

    with pytest.raises(TypeError, match="bytes"):
        build(Odd, {"value": "x"})
