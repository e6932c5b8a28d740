"""replay_server/room.py: the least of what memory, a container and a disk have left."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from replay_server import room
from replay_server.data_dir import DataDir
from replay_server.service import ExperienceService
from tests.unit.test_replay_table import DEFINITION


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:     500 kB\nBuffers: 1 kB\n")
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    return tmp_path


def test_memory_and_a_containers_limit(machine: Path) -> None:
    assert room.free_bytes(None) == int(0.9 * 500 * 1024)
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("1000\n")
    assert room.free_bytes(None) == int(0.9 * 500 * 1024)
    (machine / "memory.max").write_text("5000\n")
    assert room.free_bytes(None) == 3600
    (machine / "memory.max").write_text("10\n")
    assert room.free_bytes(None) == 0


def test_a_disk_is_not_memory(machine: Path) -> None:
    durable, fleeting = (DataDir(machine / str(durable), durable=durable) for durable in (True, False))
    on_disk = room.free_bytes(durable)
    assert on_disk is not None
    assert on_disk > 10 * 500 * 1024
    assert room.free_bytes(fleeting) == int(0.9 * 500 * 1024)
    for data_dir in (durable, fleeting):
        data_dir.close()


def test_a_system_that_says_nothing_has_no_limit(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert room.free_bytes(None) is None


def test_tables_may_take_what_is_free_and_no_more() -> None:
    service = ExperienceService()
    service.leave_free(10)
    assert service.max_bytes == 10
    with pytest.raises(ConfigError, match="0 of this server's 10 are used"):
        service._check_budget(DEFINITION)
    service.leave_free(None)
    service._check_budget(DEFINITION)
    assert service.max_bytes is None
