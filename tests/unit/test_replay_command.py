"""`shoal replay`: what its arguments mean, and every problem at once."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.security import OPEN
from shoal import data_place, replay_command
from shoal.cli import main, parse

Capture = pytest.CaptureFixture[str]


def read(*words: str) -> replay_command.Options:
    return replay_command.read(parse(["replay", *words]))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The replay server's entry points, replaced by ones that note how they are called."""
    calls: list[dict[str, Any]] = []

    def run(listen: str, **options: Any) -> int:
        calls.append({"listen": listen, **options})
        return 0

    def verify(folder: Path) -> tuple[list[str], int]:
        calls.append({"verify": folder})
        return ["table 'a': 7 items", "table 'b': damaged"], 1

    def data_dir(path: Path, *, durable: bool) -> tuple[Path, bool]:
        return path, durable

    for name, entries in (("main", {"run": run}), ("verify", {"run": verify}), ("data_dir", {"DataDir": data_dir})):
        module = types.ModuleType(f"replay_server.{name}")
        vars(module).update(entries)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_the_server_is_called_with_what_was_said(
    server: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(data_place, "file_system", lambda path: "ext4")
    words = ["--socket", "/a", "--max-bytes", "8GB", "--manifest-every", "2.5", "--metrics-port", "9101"]
    words += ["--metrics-host", "0.0.0.0"]
    assert main(["replay", "--listen", "h:1", "--data-dir", str(tmp_path), *words]) == 0
    assert main(["replay", "--listen", "h:1", "--data-dir", "memory"]) == 0
    assert server == [
        {
            "listen": "h:1",
            "sockets": ["/a"],
            "data_dir": (tmp_path, True),
            "max_bytes": 8_000_000_000,
            "manifest_every_s": 2.5,
            "metrics_port": 9101,
            "metrics_host": "0.0.0.0",
            "security": OPEN,
        },
        {
            "listen": "h:1",
            "sockets": [],
            "data_dir": None,
            "max_bytes": None,
            "manifest_every_s": 10.0,
            "metrics_port": None,
            "metrics_host": "127.0.0.1",
            "security": OPEN,
        },
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"tables are kept in {tmp_path} (on disk, ")
    assert second == "tables are kept in this process's memory and end with it: as --data-dir says"


def test_verify_gives_its_exit_code(server: list[dict[str, Any]], tmp_path: Path, capsys: Capture) -> None:
    assert main(["replay", "verify", str(tmp_path)]) == 1
    assert server == [{"verify": tmp_path}]
    assert capsys.readouterr().out == "table 'a': 7 items\ntable 'b': damaged\n"
    assert main(["replay", "verify", str(tmp_path / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["replay", "verify"])
    assert main(["replay", "verify", str(tmp_path), "--repair"]) == 2
    assert "unknown argument --repair" in capsys.readouterr().err


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--listen", "7401", "--socket", "/tmp/" + "x" * 120, "--max-bytes", "8 parsecs", "--manifest-every", "0")
    with pytest.raises(ConfigError) as refused:
        read(*words, "--metrics-port", "70000", "--data-dir", str(tmp_path / "file"))
    names = [problem.split()[0] for problem in refused.value.problems]
    assert names == ["--listen", "--socket", "--max-bytes", "--manifest-every", "--metrics-port", "--data-dir"]
    with pytest.raises(ConfigError, match="--listen HOST:PORT is needed"):
        read()


@pytest.mark.parametrize("listen", ["unix:", "unix:" + "x" * 101])
def test_a_sockets_path_has_a_length(listen: str) -> None:
    with pytest.raises(ConfigError, match="has 1 to 100 bytes"):
        read("--listen", listen, "--data-dir", "memory")


def test_memory_has_no_manifests() -> None:
    with pytest.raises(ConfigError, match="--manifest-every 5: tables in memory have no manifests"):
        read("--listen", "h:1", "--data-dir", "memory", "--manifest-every", "5")


@pytest.mark.parametrize("data_dir", ["", " ", "/proc/self/mem/x"])
def test_what_can_be_no_folder_is_refused(data_dir: str) -> None:
    with pytest.raises(ConfigError, match="--data-dir"):
        read("--listen", "h:1", "--data-dir", data_dir)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("500MiB", 500 << 20), ("1048576", 1 << 20), ("1.5 g", 1_500_000_000), ("2kib", 2048)],
)
def test_sizes(text: str, size: int) -> None:
    assert replay_command.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "GB", "-1GB", "1EB", "1 G B", "inf", "1e9", "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 8GB"):
        replay_command.size_bytes(text)
