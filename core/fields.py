"""Typed settings from plain values: any frozen dataclass, every problem found before anything is raised.

core/config.py reads the run's tree with it, core/algorithms each algorithm's own section. Pure functions, any thread.
A problem is one line that begins with the dotted name of its field. Text is read as its field's type asks, so a number
may come as "1e-3" from a command line or from YAML 1.1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from core.errors import ConfigError

T = TypeVar("T")

_LIMITS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "low": ("at least", operator.ge),
    "high": ("at most", operator.le),
    "above": ("more than", operator.gt),
    "below": ("less than", operator.lt),
}


def bounded(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with limits for its number, or each number of its tuple; `low` and `high` may be reached."""
    limits = {"low": low, "high": high, "above": above, "below": below}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v is not None})


class Settings:
    """Base of a frozen dataclass of settings: its fields are checked, however it is made.

    Raises ConfigError with every problem. `elsewhere` has names that people look for here and what to do instead.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        problems: list[str] = []
        for field, kind in _fields(type(self)):
            try:
                object.__setattr__(self, field.name, _checked(field, kind, getattr(self, field.name)))
            except ValueError as error:
                problems.append(f"{field.name}: {error}")
        ConfigError.raise_if(problems or self.contradictions())

    def contradictions(self) -> Iterable[str]:
        """Problems between fields that are each all right; every one begins with a field's name and a colon."""
        return ()


def build(cls: type[T], given: Mapping[str, Any], path: str = "") -> tuple[T | None, list[str]]:
    """A `cls` from plain values, and every problem; names in problems begin with `path`.

    A field with a problem keeps its default, so that the rest can be checked too: use the instance only where there is
    no problem. It is None where fields contradict each other or one without a default is missing.
    """
    reader = _Reader(names(cls, path))
    return reader.read(cls, given, path), reader.problems


def names(cls: type, path: str = "") -> list[str]:
    """Every dotted name that may be set in `cls`, sections included."""
    found: list[str] = []
    for field, kind in _fields(cls):
        name = join(path, field.name)
        found += [name, *(names(kind, name) if _is_section(kind) else ())]
    return found


def plain(value: Any) -> Any:
    """`value`, a dataclass of settings, as dicts, lists, numbers and text, for YAML, JSON and msgpack."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def nearest(word: str, known: Iterable[str]) -> str:
    """The words "; did you mean 'x'?" for the closest of the `known` dotted names, or nothing."""
    known = list(known)
    last = word.rpartition(".")[2]
    close = [name for name in known if name.rpartition(".")[2] == last]
    if not close:
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not close:
        tails = {name.rpartition(".")[2]: name for name in known}
        close = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=1, cutoff=0.75)]
    return f"; did you mean '{close[0]}'?" if close else ""


def join(path: str, name: str) -> str:
    """The dotted name of `name` in the section `path`."""
    return f"{path}.{name}" if path else name


def _fields(cls: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


class _Reader:
    """One reading of a tree: all names that it knows, and the problems so far."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known
        self.problems: list[str] = []

    def read(self, cls: type[T], given: Any, path: str) -> T | None:
        if not isinstance(given, Mapping):
            self.problems.append(f"{path}: must be a section of names and values, not {given!r}")
            given = {}
        fields = {field.name: (field, kind) for field, kind in _fields(cls)}
        for key in given:
            name = join(path, str(key))
            if key in getattr(cls, "elsewhere", {}):
                self.problems.append(f"{name}: {cls.elsewhere[key]}")  # type: ignore[attr-defined]
            elif key not in fields:
                self.problems.append(f"{name}: no such setting{nearest(name, self.known)}")
        values: dict[str, Any] = {}
        for name, (field, kind) in fields.items():
            if name in given:
                self._read_field(values, field, kind, given[name], path)
            elif _is_required(field):
                self.problems.append(f"{join(path, name)}: must be given")
        complete = all(name in values or not _is_required(field) for name, (field, _) in fields.items())
        return self._make(cls, values, path) if complete else None

    def _read_field(
        self, values: dict[str, Any], field: dataclasses.Field[Any], kind: Any, given: Any, path: str
    ) -> None:
        name = join(path, field.name)
        if _is_section(kind):
            section = self.read(kind, {} if given is None else given, name)
            values |= {} if section is None else {field.name: section}
            return
        try:
            values[field.name] = _checked(field, kind, given)
        except ValueError as error:
            self.problems.append(f"{name}: {error}")

    def _make(self, cls: type[T], values: Mapping[str, Any], path: str) -> T | None:
        try:
            return cls(**values)
        except ConfigError as error:
            self.problems += [join(path, problem) for problem in error.problems]
            return None


def _checked(field: dataclasses.Field[Any], kind: Any, given: Any) -> Any:
    try:
        value = _convert(kind, given)
        for number in value if isinstance(value, tuple) else (value,):
            _check_limits(number, field.metadata)
    except ValueError as error:
        raise ValueError(f"{error}, not {given!r}") from None
    return value


def _check_limits(value: Any, limits: Mapping[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    for name, (words, holds) in _LIMITS.items():
        if name in limits and not holds(value, limits[name]):
            raise ValueError(f"must be {words} {limits[name]}")


def _convert(kind: Any, value: Any) -> Any:
    """`value` as a `kind`, or ValueError with what it must be."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(args, value)
    if origin in (Union, UnionType):
        return _any_of(args, value)
    if origin is tuple:
        return _tuple(args, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(value)
    if kind is Any:
        return value
    if _is_section(kind):
        return _instance(kind, value)
    if kind not in _SCALARS:
        raise TypeError(f"a field of settings cannot be of type {kind}")
    return _SCALARS[kind](value)


def _instance(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"must be of class {kind.__name__}")
    return value


def _one_of(options: tuple[Any, ...], value: Any) -> Any:
    for option in options:
        if (type(value) is type(option) and value == option) or value == str(option):
            return option
    raise ValueError(f"must be one of {', '.join(str(option) for option in options)}")


def _any_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and NoneType in kinds:
        return None
    wanted: list[str] = []
    for kind in kinds:
        if kind is NoneType:
            continue
        try:
            return _convert(kind, value)
        except ValueError as error:
            wanted.append(str(error).removeprefix("must be "))
    raise ValueError(f"must be {' or '.join([*wanted, *(['null'] if NoneType in kinds else [])])}")


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list such as [64, 64]")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"must be a list of {len(kinds)} values")
    try:
        return tuple(_convert(kind, item) for kind, item in zip(kinds, value, strict=True))
    except ValueError as error:
        raise ValueError(f"every element {error}") from None


def _mapping(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not _is_plain(value):
        raise ValueError("must be names and values of numbers, text, lists and mappings")
    return dict(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _int(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return int(value) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        with contextlib.suppress(ValueError):
            number = _float(value)
            if number.is_integer():
                return int(number)
    raise ValueError("must be a whole number")


def _float(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    return number


def _str(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError("must be text (in quotes where it looks like a number)")
    return value


_SCALARS: Mapping[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str}
