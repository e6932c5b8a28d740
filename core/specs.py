"""Signatures: what an environment gives and takes, and what a table's columns look like. Pure data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

DTYPES = frozenset(
    np.dtype(name).str for name in ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
)
"""Of columns that travel."""
MAX_COLUMNS, MAX_DIMENSIONS = 256, 16
"""Of what travels; the first two dimensions are [T, B]."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype name of one array, without its leading [T, B]."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Numbers in one array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one array."""
        return self.size * np.dtype(self.dtype).itemsize

    def problems(self) -> Iterator[str]:
        """Why it cannot be a column's."""
        try:
            travels = np.dtype(self.dtype).str in DTYPES
        except (TypeError, ValueError, SyntaxError):
            travels = False
        if not travels:
            yield f"dtype {str(self.dtype)[:40]!r}; give bool or a little-endian integer or float, such as 'float32'"
        if len(self.shape) > MAX_DIMENSIONS - 2 or not all(type(n) is int and n > 0 for n in self.shape):
            yield f"shape {str(self.shape)[:80]}; give at most {MAX_DIMENSIONS - 2} whole numbers from 1 on"

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ArraySpec:
        """The inverse of `dataclasses.asdict`, for what came over a wire or from a file."""
        return cls(tuple(int(n) for n in plain["shape"]), str(plain["dtype"]))


@dataclass(frozen=True)
class ActionSpec:
    """An action space.

    `discrete`: integers start .. start + n - 1. `multi_discrete`: D of them, the d-th with nvec[d] values from
    starts[d] on, and n the sum of nvec. `box`: floats between low and high, by element.
    """

    kind: Literal["discrete", "multi_discrete", "box"]
    array: ArraySpec
    n: int = 0
    start: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    nvec: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.kind == "multi_discrete":
            return f"MultiDiscrete({list(self.nvec)})"
        return f"Discrete({self.n})" if self.kind == "discrete" else f"Box{self.array.shape}"


@dataclass(frozen=True)
class ObservationPart:
    """One array of a packed observation, at byte `offset`. With `n`, integers 0 .. n - 1 of a discrete space."""

    name: str
    array: ArraySpec
    offset: int
    n: int = 0

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ObservationPart:
        """The inverse of `dataclasses.asdict`."""
        return cls(str(plain["name"]), ArraySpec.from_plain(plain["array"]), int(plain["offset"]), int(plain["n"]))


@dataclass(frozen=True)
class EnvSpec:
    """What a network must know of an environment: its id, observation and action.

    `parts` is empty where the environment observes one array. Otherwise `observation` is the uint8 array that holds
    the bytes of all parts.
    """

    id: str
    observation: ArraySpec
    action: ActionSpec
    parts: tuple[ObservationPart, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, finite numbers and strings, for msgpack and JSON; the bound of an unbounded action is text."""
        plain = asdict(self)
        for bound in ("low", "high"):
            plain["action"][bound] = [x if math.isfinite(x) else str(x) for x in plain["action"][bound]]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> EnvSpec:
        """The inverse of `to_plain`."""
        a = plain["action"]
        action = ActionSpec(
            kind=a["kind"],
            array=ArraySpec.from_plain(a["array"]),
            n=int(a["n"]),
            start=int(a["start"]),
            low=tuple(map(float, a["low"])),
            high=tuple(map(float, a["high"])),
            nvec=tuple(map(int, a.get("nvec", ()))),
            starts=tuple(map(int, a.get("starts", ()))),
        )
        parts = tuple(ObservationPart.from_plain(part) for part in plain.get("parts", ()))
        return cls(str(plain["id"]), ArraySpec.from_plain(plain["observation"]), action, parts)


@dataclass(frozen=True)
class ColumnSpec:
    """One column of a table: [rows + extra_rows, B, *shape]. `obs` has extra_rows = 1, the bootstrap observation.

    `window_rows` "first": a sample has the first row of each window only, [n, ...], such as a recurrent memory.
    """

    array: ArraySpec
    extra_rows: int = 0
    window_rows: Literal["all", "first"] = "all"

    def __post_init__(self) -> None:
        if self.window_rows not in ("all", "first"):
            raise ValueError(f"window_rows {self.window_rows!r} is neither 'all' nor 'first'")

    def to_plain(self) -> dict[str, Any]:
        """Numbers, strings and a list, for msgpack and JSON."""
        return {
            "shape": list(self.array.shape),
            "dtype": self.array.dtype,
            "extra_rows": self.extra_rows,
            "window_rows": self.window_rows,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ColumnSpec:
        """The inverse of `to_plain`; a plain one that does not say `window_rows` means all of them."""
        return cls(ArraySpec.from_plain(plain), int(plain["extra_rows"]), plain.get("window_rows", "all"))


@dataclass(frozen=True)
class Signature:
    """The columns of a table and the most rows and environments that one item may have."""

    columns: Mapping[str, ColumnSpec]
    max_rows: int
    max_envs: int

    def nbytes(self, rows: int, envs: int) -> int:
        """Bytes of all columns of an item of that size."""
        return sum((rows + c.extra_rows) * envs * c.array.nbytes for c in self.columns.values())

    def problems(self) -> Iterator[str]:
        """Why it cannot be a table's."""
        for word, number in (("max_rows", self.max_rows), ("max_envs", self.max_envs)):
            if type(number) is not int or number < 1:
                yield f"{word} is {number!r}; give a whole number from 1 on"
        if len(self.columns) > MAX_COLUMNS:
            yield f"{len(self.columns)} columns; give at most {MAX_COLUMNS}"
        for name, column in self.columns.items():
            yield from (f"column {str(name)[:80]!r} has {problem}" for problem in column.array.problems())

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, numbers and strings, for msgpack and JSON."""
        columns = {name: column.to_plain() for name, column in self.columns.items()}
        return {"columns": columns, "max_rows": self.max_rows, "max_envs": self.max_envs}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Signature:
        """The inverse of `to_plain`."""
        columns = {str(name): ColumnSpec.from_plain(column) for name, column in plain["columns"].items()}
        return cls(columns, int(plain["max_rows"]), int(plain["max_envs"]))
