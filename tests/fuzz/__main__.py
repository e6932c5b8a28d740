"""`make fuzz`: atheris, guided by coverage, throws bytes at every case for a while, or until something breaks.

    python -m tests.fuzz --seconds 600 [--jobs 2] [--keep] [CASE ...]

Inputs that found new ways through the code are kept in runs/fuzz/CASE and begin the next time; an input that broke
something is left beside them as `crash-*`. Some small ones are in tests/fuzz/corpus (`--keep` writes them): they begin
on a new machine, and `make test` throws them, too.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path("runs") / "fuzz"
KEPT = Path(__file__).with_name("corpus")
MOST_KEPT, MOST_KEPT_BYTES = 64, 4096
SPARE_S = 120.0
"""For a case to start, and to end."""
NAMES = (
    *("insert", "sample", "ensure_table", "checkpoint", "rollback", "drop_table", "join", "weights", "frames"),
    *("columns", "unroll_header", "run_spec", "table_definition", "manifest", "blocks", "checkpoint_files"),
    *("answers", "weights_received", "tokens_file", "gate", "http", "config_file"),
)
"""Of tests/fuzz/cases.py, which is imported by the fuzzing processes alone: it must be instrumented."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where anything broke."""
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=600, help="for each case (default 600)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default 2)")
    parser.add_argument("--keep", action="store_true", help=f"write small inputs to {KEPT.name}/ for the repository")
    options = parser.parse_args(argv)
    unknown = set(options.cases) - {*NAMES}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    with ThreadPoolExecutor(options.jobs) as pool:
        broken = [name for name in pool.map(lambda n: _fuzz(n, options.seconds), options.cases or NAMES) if name]
    if options.keep:
        for name in options.cases or NAMES:
            keep(name)
    print(f"{len(options.cases or NAMES)} cases, {options.seconds} s each: {', '.join(broken) or 'nothing'} broke")
    return int(bool(broken))


def kept(name: str) -> list[bytes]:
    """What the repository has of a case."""
    with zipfile.ZipFile(KEPT / f"{name}.zip") as packed:
        return [packed.read(entry) for entry in packed.namelist()]


def keep(name: str) -> None:
    """Of what the last runs found, the smallest; the same ones give the same file."""
    found = {path.read_bytes() for path in (CORPUS / name).iterdir() if not path.name.startswith("crash-")}
    KEPT.mkdir(exist_ok=True)
    with zipfile.ZipFile(KEPT / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for data in sorted(found, key=lambda data: (len(data), data))[:MOST_KEPT]:
            if len(data) <= MOST_KEPT_BYTES:
                packed.writestr(zipfile.ZipInfo(hashlib.sha256(data).hexdigest()[:16]), data, zipfile.ZIP_DEFLATED)


def _fuzz(name: str, seconds: int) -> str | None:
    """The case's name where it broke."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in kept(name) if (KEPT / f"{name}.zip").exists() else ():
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
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
