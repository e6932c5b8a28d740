"""`make fuzz`: atheris, guided by coverage, throws bytes at every case for a while, or until something breaks.

    python -m tests.fuzz --seconds 600 [--jobs 2] [CASE ...]

Inputs that found new ways through the code are kept in runs/fuzz/CASE and begin the next time; an input that broke
something is left beside them as `crash-*`.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path("runs") / "fuzz"
SPARE_S = 120.0
"""For a case to start, and to end."""
NAMES = (
    *("insert", "sample", "ensure_table", "checkpoint", "rollback", "drop_table", "join", "weights", "frames"),
    *("columns", "unroll_header", "run_spec", "table_definition", "manifest", "blocks", "checkpoint_files"),
    "config_file",
)
"""Of tests/fuzz/cases.py, which is imported by the fuzzing processes alone: it must be instrumented."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where anything broke."""
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=600, help="for each case (default 600)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default 2)")
    options = parser.parse_args(argv)
    unknown = set(options.cases) - {*NAMES}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    with ThreadPoolExecutor(options.jobs) as pool:
        broken = [name for name in pool.map(lambda n: _fuzz(n, options.seconds), options.cases or NAMES) if name]
    print(f"{len(options.cases or NAMES)} cases, {options.seconds} s each: {', '.join(broken) or 'nothing'} broke")
    return int(bool(broken))


def _fuzz(name: str, seconds: int) -> str | None:
    """The case's name where it broke."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), f"-max_total_time={seconds}"]
    flags = [
        "-max_len=200000",
        "-rss_limit_mb=2048",
        "-timeout=20",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    log = folder.with_suffix(".log")
    with log.open("w") as out:
        code = subprocess.run([*command, *flags], stdout=out, stderr=out, timeout=seconds + SPARE_S).returncode
    said = log.read_text(errors="replace").splitlines()
    runs = next((line.split()[-1] for line in said if "number_of_executed_units" in line), "?")
    print(
        f"{name}: {runs} inputs, {len(list(folder.iterdir()))} kept{'' if code == 0 else f'  BROKE, see {log}'}",
        flush=True,
    )
    if code:
        print("\n".join(said[-30:]), flush=True)
    return name if code else None


if __name__ == "__main__":
    logging.basicConfig()
    sys.exit(main())
