"""One case under atheris, in a process of its own: `python -m tests.fuzz.one CASE CORPUS [libFuzzer's flags]`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris

LEAKS = "replay_server.recovery"
"""Atheris keeps the results of comparisons of arrays that it traces: 800 bytes an input here, gigabytes in minutes."""

with atheris.instrument_imports(include=["actors", "core", "replay_server", "learner"], exclude=[LEAKS]):
    from tests.fuzz.cases import CASES


def main() -> None:
    """Runs until libFuzzer's flags say that it is enough; its exit code is not 0 where an input broke something."""
    logging.disable(logging.CRITICAL)
    case, corpus = CASES[sys.argv[1]](), Path(sys.argv[2])
    for number, seed in enumerate(case.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], case)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
