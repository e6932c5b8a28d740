"""What a sweep varies: `NAME=A,B,C` chooses from a list, `NAME=LOW..HIGH` draws from a range, `:log` evenly in ratio.

Pure; Ray's own words for it are made in sweep.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from core import yaml12
from core.errors import ConfigError

_RANGE = re.compile(r"(?P<low>[^:,]+?)\.\.(?P<high>[^:,]+)(?P<log>:log)?")


@dataclass(frozen=True)
class Choice:
    """One of `values`."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included; whole numbers where both ends are."""

    name: str
    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Dimension = Choice | Range


def parse(texts: Sequence[str], search: str) -> list[Dimension]:
    """What --vary says. Raises ConfigError with every problem."""
    found: list[Dimension] = []
    problems: list[str] = []
    for text in texts:
        try:
            found.append(_dimension(text))
        except (ValueError, yaml.YAMLError) as error:
            problems.append(f"--vary {text}: {error}")
    names = [dimension.name for dimension in found]
    problems += [
        f"--vary {name}: given {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    if not texts:
        problems.append("--vary NAME=A,B or NAME=LOW..HIGH[:log] is needed, such as ppo.learning_rate=1e-4..1e-2:log")
    if search == "grid":
        problems += [
            f"--vary {d.name}: a grid needs a list, NAME=A,B,C; ranges are for random, asha and pbt"
            for d in found
            if isinstance(d, Range)
        ]
    ConfigError.raise_if(problems)
    return found


def first_of(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Settings with which each value of a list, and both ends of each range, are tried once, to check them."""
    every = [list(d.values) if isinstance(d, Choice) else [d.low, d.high] for d in dimensions]
    longest = max((len(values) for values in every), default=0)
    return [
        {d.name: values[min(i, len(values) - 1)] for d, values in zip(dimensions, every, strict=True)}
        for i in range(longest)
    ]


def _dimension(text: str) -> Dimension:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ValueError("must be NAME=A,B or NAME=LOW..HIGH[:log]")
    match = _RANGE.fullmatch(value.strip())
    if match is None:
        return Choice(name.strip(), tuple(yaml12.load(part) for part in value.split(",")))
    low, high, log = yaml12.load(match["low"]), yaml12.load(match["high"]), match["log"] is not None
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        raise ValueError("the ends of a range must be numbers")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("the lower end must be below the upper one")
    if log and low <= 0:
        raise ValueError("with :log the lower end must be above 0")
    return Range(name.strip(), low, high, log)
