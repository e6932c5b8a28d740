"""`python -m benchmarks.replay`, or `shoal bench replay`: the replay server beside its limit and its peer."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; 1 where a bar was missed."""
    from benchmarks.replay.command import main as run  # the processes that are measured import this package, too

    return run(argv)
