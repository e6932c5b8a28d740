"""Where replay tables are kept by default, what a file system is, and the launcher's folders in memory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from core.config import Config
from core.errors import ConfigError
from shoal import data_place
from shoal.data_place import chosen, file_system, own_folder, run_folder, size_text, sweep, tables_in
from shoal.replay_child import check_empty


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(data_place, "SHM", folder)
    monkeypatch.setattr(data_place, "file_system", lambda path: "tmpfs" if path.is_relative_to(folder) else "ext4")
    monkeypatch.setattr(data_place, "own_folder", lambda shm=folder: own_folder(shm))
    return folder


def mounts(tmp_path: Path, path: Path, kind: str) -> Path:
    device = path.stat().st_dev
    file = tmp_path / "mountinfo"
    file.write_text(
        "22 27 0:9999 / /proc rw,relatime - proc proc rw\n"
        f"25 24 {os.major(device)}:{os.minor(device)} / /a\\040b rw shared:1 - {kind} none rw,size=4k\n"
    )
    return file


def test_a_file_system_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    for kind in ("tmpfs", "ext4"):
        file = mounts(tmp_path, tmp_path, kind)
        assert file_system(tmp_path, file) == kind
        assert file_system(tmp_path / "not" / "made yet", file) == kind
    assert file_system(Path("/proc/self"), mounts(tmp_path, tmp_path, "ext4")) == ""
    assert file_system(tmp_path, tmp_path / "nothing") == ""


def test_a_relative_folder_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_system(Path("a/b"), mounts(tmp_path, tmp_path, "xfs")) == "xfs"
    assert data_place.free_bytes(Path("a/b")) > 0


@pytest.mark.parametrize(
    ("listen", "sockets", "name"),
    [
        ("127.0.0.1:7401", [], "replay-7401"),
        ("0.0.0.0:7401", ["/tmp/a.sock"], "replay-7401"),
        ("unix:/tmp/a b.sock", [], "replay-tmp-a-b.sock"),
        ("127.0.0.1:0", ["/run/x/replay.sock"], "replay-run-x-replay.sock"),
    ],
)
def test_the_default_place_is_the_same_at_each_start(shm: Path, listen: str, sockets: list[str], name: str) -> None:
    place = chosen(None, listen, sockets)
    assert place.path == shm / f"shoal-{os.getuid()}" / name
    assert not place.durable
    assert "outlive this process, kill -9 too, but no reboot" in place.text
    assert str(place.path) in place.text
    assert (shm / f"shoal-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_what_is_asked_for_wins(shm: Path, tmp_path: Path) -> None:
    disk = chosen(str(tmp_path / "d"), "h:1", [])
    assert (disk.path, disk.durable) == (tmp_path / "d", True)
    assert "(on disk, " in disk.text
    assert "a power cut loses what is newer than the last manifest" in disk.text
    in_memory = chosen(str(shm / "d"), "h:1", [])
    assert (in_memory.path, in_memory.durable) == (shm / "d", False)
    process = chosen("memory", "h:1", [])
    assert (process.path, process.durable) == (None, False)
    assert process.text == "tables are kept in this process's memory and end with it: as --data-dir says"
    assert not list(shm.iterdir())


def test_without_a_lasting_address_or_a_usable_shm_it_is_memory_with_the_reason(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nobody finds port 0 again" in chosen(None, "127.0.0.1:0", []).text
    with monkeypatch.context() as less:
        less.setattr(data_place, "LEAST_FREE_BYTES", 1 << 60)
        assert "GiB free; --data-dir DIR keeps them" in chosen(None, "h:1", []).text
    (shm / f"shoal-{os.getuid()}").symlink_to(shm)
    assert "is somebody else's" in chosen(None, "h:1", []).text
    (shm / f"shoal-{os.getuid()}").unlink()
    (shm / f"shoal-{os.getuid()}").touch()
    place = chosen(None, "h:1", [])
    assert (place.path, "cannot be used (File exists)" in place.text) == (None, True)
    with monkeypatch.context() as no:
        no.setattr(data_place, "file_system", lambda path: "ext4")
        assert f"{shm} is no writable tmpfs" in chosen(None, "h:1", []).text


def test_a_runs_folder_is_its_own_and_goes_with_it(shm: Path) -> None:
    with run_folder(shm) as one, run_folder(shm) as two:
        assert one is not None
        assert two is not None
        assert one != two
        assert one.parent == two.parent == shm / f"shoal-{os.getuid()}"
        (one / "experience").mkdir()
        (one / "experience" / "blocks").write_bytes(bytes(10))
    assert not one.exists()
    assert not two.exists()


def test_the_folders_of_killed_launchers_are_removed_and_no_others(shm: Path) -> None:
    base = shm / f"shoal-{os.getuid()}"
    (base / "run-dead" / "experience").mkdir(parents=True)
    (base / "run-dead" / "owner").touch()
    (base / "run-half").mkdir()
    (base / "replay-7401").mkdir()
    with run_folder(shm) as live:
        assert live is not None
        sweep(shm)
        assert sorted(p.name for p in base.iterdir()) == sorted([".lock", "replay-7401", live.name])
        with (live / "owner").open() as owner, pytest.raises(BlockingIOError):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_there_is_nothing_to_sweep_where_nothing_ever_ran(shm: Path) -> None:
    sweep(shm)
    assert not list(shm.iterdir())


def test_where_there_is_no_memory_for_files_a_run_has_no_folder(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_place, "LEAST_FREE_BYTES", 1 << 60)
    with run_folder(shm) as folder:
        assert folder is None


def test_tables_are_found_by_their_definitions(tmp_path: Path) -> None:
    for name in ("b", "a", "unfinished"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "definition.json").touch()
    (tmp_path / "lock").touch()
    assert tables_in(tmp_path) == ["a", "b"]
    assert tables_in(tmp_path / "none") == []


@pytest.mark.parametrize(("lag", "resume"), [("auto", True), ("async", True), (0, False), (1, False)])
def test_anothers_tables_are_refused_and_a_resume_is_advised_where_it_would_take_them(
    tmp_path: Path, lag: Any, resume: bool
) -> None:
    config = Config(algorithm="dqn", policy_lag=lag, replay_data_dir=str(tmp_path))
    check_empty(config)
    (tmp_path / "experience").mkdir()
    (tmp_path / "experience" / "definition.json").touch()
    with pytest.raises(ConfigError, match=r"holds experience of another run; .*choose another --data-dir") as refused:
        check_empty(config)
    assert ("--resume" in str(refused.value)) == resume


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 1536 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "3.0 TiB",
    ]


def test_a_run_that_goes_on_has_the_folder_of_its_killed_launcher_and_no_others(shm: Path) -> None:
    base = Path(str(data_place.own_folder()))
    former, other = base / "run-former", base / "run-other"
    for folder in (former, other):
        folder.mkdir()
        (folder / "table").touch()
    with run_folder(shm, former) as mine:
        assert mine == former
        assert (former / "table").exists()
        assert not other.exists(), "the folders of other killed launchers are removed"
        with run_folder(shm, former) as anew:
            assert anew not in (None, former), "it is somebody else's"
    assert not former.exists()
    with run_folder(shm, shm / "elsewhere") as mine:
        assert mine is not None
        assert mine.parent == base
