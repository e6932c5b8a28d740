"""What happened to a launcher's processes, in words and as errors."""

from __future__ import annotations

import textwrap

from core.errors import ShoalError, all_errors
from shoal.processes import Process, describe


def report(child: Process) -> str:
    """What happened to a process, with its last words."""
    return f"{child.name} {describe(child.code)}:\n{textwrap.indent(child.last_words(), '  ')}\n  (log: {child.log})"


def error_of(child: Process) -> ShoalError:
    """The error that ended a process: its own message where it gave one, else its last words. It has the exit code."""
    own = (child.code or 0) > 1 and child.code in _kinds()
    return error(child.code or 0, child.last_words() if own else report(child))


def _kinds() -> dict[int, type[ShoalError]]:
    return {kind.exit_code: kind for kind in reversed(list(all_errors()))}


def error(code: int, text: str) -> ShoalError:
    """The error that a process ends with when it has this exit code; negative for a signal."""
    if code > 1 and code in _kinds():
        return _kinds()[code](text)
    failed = ShoalError(text)
    failed.exit_code = code if code > 0 else 128 - code
    return failed
