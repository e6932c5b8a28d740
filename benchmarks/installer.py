"""The peers, each in a virtual environment of its own under .venv-peers, because their pins disagree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.running import ROOT

FOLDER = ROOT / ".venv-peers"
PINS: dict[str, Sequence[str]] = {
    "sb3": (
        *("torch==2.13.0", "stable-baselines3==2.9.2", "gymnasium[box2d,classic-control]==1.4.0", "numpy==2.4.6"),
        *("ale-py==0.12.1", "opencv-python-headless>=4.11"),
    ),
    "reverb": ("dm-reverb[tensorflow]==0.14.0",),  # has no wheels for Python 3.12 and later
    "sample-factory": ("torch==2.13.0", "sample-factory==2.1.1", "gymnasium[classic-control]==0.29.1", "numpy==1.26.4"),
}
HOW = "python -m benchmarks install-peers"


def python_of(peer: str) -> Path | None:
    """The peer's interpreter: $SHOAL_BENCH_<PEER>_PYTHON, or that of its own environment. None: not installed."""
    own = os.environ.get(f"SHOAL_BENCH_{peer.upper().replace('-', '_')}_PYTHON")
    path = Path(own) if own else FOLDER / peer / "bin" / "python"
    installed = path.is_file() if own else (FOLDER / peer / ".installed").is_file()
    return path if installed else None


def install(peers: Sequence[str]) -> int:
    """Make the environments of `peers`; how many of them failed."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    failed = [peer for peer in peers if not _install(peer)]
    for peer in failed:
        print(f"{peer} could not be installed: its rows will say so", file=sys.stderr)
    return len(failed)


def _install(peer: str) -> bool:
    if python_of(peer) is not None:
        print(f"{peer}: installed already")
        return True
    place = FOLDER / peer
    print(f"{peer}: installing {' '.join(PINS[peer])} into {place}", flush=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(place)], [*pip, *PINS[peer]]):
        if subprocess.call(command) != 0:
            return False
    (place / ".installed").touch()
    return True
