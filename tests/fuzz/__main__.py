"""`make fuzz`: atheris, guided by coverage, throws bytes at Insert and Sample until its time is up or something breaks.

    python -m tests.fuzz -max_total_time=300

The first byte of an input picks the call, then lengths and messages follow: whatever libFuzzer makes of streams that
are in order. An input that broke something is left as `crash-*`.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["core", "replay_server"]):
    from tests.fuzz.calls import Target, insert_calls, sample_calls

FRESH_EVERY = 2000
"""A new service after so many calls, so that what one of them leaves is not blamed on the size of the tables."""


def pack(name: str, messages: list[bytes]) -> bytes:
    """One input."""
    return bytes([name == "Sample"]) + b"".join(len(m).to_bytes(3, "little") + m for m in messages)


def unpack(data: bytes) -> tuple[str, list[bytes]]:
    """The inverse; anything is an input."""
    messages: list[bytes] = []
    at = 1
    while at < len(data) and len(messages) < 16:
        size = int.from_bytes(data[at : at + 3], "little")
        messages.append(data[at + 3 : at + 3 + size])
        at += 3 + size
    return "Sample" if data[:1] == b"\x01" else "Insert", messages


class Fuzzer:
    """One input after the other."""

    def __init__(self) -> None:
        self._target, self._calls = Target(), 0

    def __call__(self, data: bytes) -> None:
        name, messages = unpack(data)
        self._target.stream(name, messages, 0.005)
        self._target.check()
        self._calls += 1
        if self._calls % FRESH_EVERY == 0:
            self._target.close()
            self._target = Target()


def main() -> None:
    """Runs until libFuzzer's flags say that it is enough; its exit code is not 0 where an input broke something."""
    logging.getLogger("replay_server").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as corpus:
        for name, calls in (("Insert", insert_calls()), ("Sample", sample_calls())):
            for number, messages in enumerate(calls):
                (Path(corpus) / f"{name}-{number}").write_bytes(pack(name, messages))
        atheris.Setup([*sys.argv, corpus, "-max_len=200000", "-rss_limit_mb=2048", "-timeout=10"], Fuzzer())
        atheris.Fuzz()


if __name__ == "__main__":
    main()
