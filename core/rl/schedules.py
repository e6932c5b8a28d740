"""Schedules: pure functions of how far a run has come, so that any process computes the same value."""

from __future__ import annotations


def linear(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 and beyond; progress below 0 counts as 0."""
    share = min(1.0, max(0.0, progress))
    return start + (end - start) * share
