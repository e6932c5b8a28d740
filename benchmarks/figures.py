"""Medians, ratios and how figures are written. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Value = float | None
"""A figure of one run. None: there is none, because it was never reached or the run failed."""


def median(values: Sequence[Value]) -> Value:
    """The median; what was never reached counts as worse than all that was. None where the median one has none."""
    return _finite(statistics.median(math.inf if value is None else value for value in values)) if values else None


def worst(values: Sequence[Value]) -> Value:
    """The largest; None where any was never reached."""
    return _finite(max(math.inf if value is None else value for value in values)) if values else None


def pair_ratio(ours: Sequence[Value], others: Sequence[Value]) -> Value:
    """The median ratio of runs made one after the other, which a machine that drifts changes least."""
    pairs = zip(ours, others, strict=False)
    ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    return median(ratios)


def count(value: Value, unit: str = "") -> str:
    """A whole number with thousands apart."""
    return "never" if value is None else f"{value:,.0f}{unit and ' '}{unit}"


def seconds(value: Value) -> str:
    """To a hundredth."""
    return "never" if value is None else f"{value:.2f} s"


def _finite(value: float) -> Value:
    return value if math.isfinite(value) else None
