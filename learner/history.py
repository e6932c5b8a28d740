"""A run's figures over its whole length in a bounded number of points, for curves. Pure; one thread at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

MOST = 300
"""Points that are kept at most: more than a screen shows."""
DIGITS = 6
X = "env_steps"
Point = dict[str, float]


class History:
    """Every point is the mean of the same number of records, and stands where the newest of them does.

    That number is doubled whenever the points become too many, so an hour and a month take the same room. The last
    point may have fewer records: it is the newest there are.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._points: list[Point] = []
        self._each = 1
        self._open: list[Point] = []

    def add(self, record: Mapping[str, object]) -> None:
        """A record's numbers; what is no number is left out, and a record without env steps altogether."""
        numbers = {name: value for name, value in record.items() if _is_number(value)}
        if X not in numbers:
            return
        self._open.append(numbers)
        if len(self._open) < self._each:
            return
        self._points.append(_mean(self._open))
        self._open = []
        if len(self._points) == self._most:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, self._most, 2)]
            self._each *= 2

    def columns(self) -> dict[str, list[float | None]]:
        """A list a figure, all of one length; None where a point has none."""
        points = [*self._points, *([_mean(self._open)] if self._open else [])]
        names = dict.fromkeys(name for point in points for name in point)
        return {name: [point.get(name) for point in points] for name in names}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(points: Sequence[Point]) -> Point:
    """Of each figure, over the points that have it, in few digits: they make a short message."""
    found: Point = {}
    for name in dict.fromkeys(name for point in points for name in point):
        values = [point[name] for point in points if name in point]
        found[name] = values[-1] if name == X else float(f"{sum(values) / len(values):.{DIGITS}g}")
    return found
