"""How much memory or disk tables may take where nobody said it: so that no client can fill the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from replay_server.data_dir import DataDir

SHARE = 0.9
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(data_dir: DataDir | None) -> int | None:
    """Nine tenths of what is free where tables are kept; None where the system does not say."""
    found = [] if data_dir is not None and data_dir.durable else [_free_memory_bytes(), _free_cgroup_bytes()]
    if data_dir is not None:
        disk = os.statvfs(data_dir.path)
        found.append(disk.f_bavail * disk.f_frsize)
    known = [free for free in found if free is not None]
    return int(SHARE * min(known)) if known else None


def _free_memory_bytes() -> int | None:
    available = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(_MEMINFO), re.M)
    return int(available[1]) << 10 if available else None


def _free_cgroup_bytes() -> int | None:
    """What a container's limit leaves; what only caches files is free."""
    most, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    cached = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", _read(_CGROUP / "memory.stat"), re.M)))
    return max(0, int(most) - int(used) + cached) if most.isdecimal() and used.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
