"""core/checkpoint.py: nested state comes back, a crash at any moment leaves one to load, damage is noticed."""

from __future__ import annotations

import builtins
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import checkpoint
from core.errors import CheckpointError
from tests.metas import change_meta

STATE: dict[str, Any] = {
    "step": 7,
    "rate": 2.5e-4,
    "name": "adam",
    "nothing": None,
    "flag": True,
    "moments": {"mean": torch.arange(6.0).reshape(2, 3), "square": torch.full((), 2.0)},
    "layers": [torch.tensor([1, 2], dtype=torch.int64), {"empty": torch.zeros(0, 3)}, [1, "two"]],
}


def write(folder: Path, env_steps: int, eval_return: float | None = None, value: float = 0.0) -> Path:
    meta = {"env_steps": env_steps, "algorithm": "ppo", "eval_return": eval_return}
    return checkpoint.write(folder, meta, torch.full((4,), value), STATE)


def names(folder: Path) -> list[str]:
    return [path.name.lstrip("0") for path in checkpoint.all_in(folder)]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "checkpoints", 81_920, 12.5, value=3.0)
    assert path.name == "000000081920"
    read = checkpoint.read(path)
    assert (read.path, read.meta["env_steps"], read.meta["eval_return"]) == (path, 81_920, 12.5)
    assert read.tensors["network"].tolist() == [3.0] * 4
    state = read.state
    for name in ("step", "rate", "name", "nothing", "flag"):
        assert state[name] == STATE[name]
        assert type(state[name]) is type(STATE[name])
    assert torch.equal(state["moments"]["mean"], STATE["moments"]["mean"])
    assert state["moments"]["square"].shape == ()
    assert state["layers"][0].dtype == torch.int64
    assert state["layers"][1]["empty"].shape == (0, 3)
    assert state["layers"][2] == [1, "two"]
    assert sorted(p.name for p in path.iterdir()) == ["meta.json", "tensors.safetensors"]


def test_tensors_that_are_views_or_need_gradients_are_written(tmp_path: Path) -> None:
    weights = torch.arange(12.0, requires_grad=True)
    turned = torch.arange(6.0).reshape(2, 3).t()
    path = checkpoint.write(tmp_path, {"env_steps": 1}, weights, {"turned": turned})
    read = checkpoint.read(path)
    assert read.tensors["network"].tolist() == list(range(12))
    assert torch.equal(read.state["turned"], turned)


def test_latest_and_best(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.latest(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.best(tmp_path)
    write(tmp_path, 900)
    write(tmp_path, 1000)
    assert checkpoint.latest(tmp_path) == checkpoint.best(tmp_path) == tmp_path / "000000001000"
    write(tmp_path, 50, -3.0)
    assert checkpoint.best(tmp_path).name == "000000000050"
    write(tmp_path, 60, -3.0)
    assert checkpoint.best(tmp_path).name == "000000000060"
    assert checkpoint.latest(tmp_path).name == "000000001000"


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for env_steps, eval_return in ((1, 5.0), (2, 9.0), (3, 1.0), (4, None), (5, 2.0)):
        write(tmp_path, env_steps, eval_return)
    checkpoint.prune(tmp_path, keep=2)
    assert names(tmp_path) == ["2", "4", "5"]
    write(tmp_path, 6, 10.0)
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == ["6"]
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == ["6"]
    assert [p.name for p in tmp_path.iterdir()] == ["000000000006"]


def test_the_same_env_steps_are_written_over(tmp_path: Path) -> None:
    write(tmp_path, 7, value=1.0)
    path = write(tmp_path, 7, 4.0, value=2.0)
    assert checkpoint.read(path).tensors["network"].tolist() == [2.0] * 4
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Killed(BaseException):
    """The process ends here."""


class Saboteur:
    """Counts the calls that change the disk; at the chosen one it fails, having done half of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.calls: list[str] = []
        self.at = -1
        self._error = error
        for target, name in (
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "unlink"),
            (os, "fsync"),
            (shutil, "rmtree"),
            (checkpoint, "_write_synced"),
        ):
            monkeypatch.setattr(target, name, self._wrapped(name, getattr(target, name)))

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            exists = name != "rmtree" or Path(arguments[0]).exists()
            if exists and self.at >= 0:
                self.calls.append(name)
                if len(self.calls) == self.at:
                    self._half(name, arguments)
                    self.at = -1  # what cleans up afterwards works again
                    raise self._error
            return function(*arguments, **more)

        return call

    @staticmethod
    def _half(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "_write_synced":
            with builtins.open(arguments[0], "wb") as file:
                file.write(arguments[1][: len(arguments[1]) // 2])
        if name == "rmtree":
            os.unlink(sorted(Path(arguments[0]).iterdir())[-1])


def crash_points(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException, action: Callable[[], Any]) -> int:
    """Repeat `action` from the same start with a failure at its 1st, 2nd, .. call; check what is left each time."""
    start = folder.with_name("start")
    shutil.copytree(folder, start)
    saboteur = Saboteur(monkeypatch, error)
    points = 0
    while True:
        saboteur.calls, saboteur.at = [], points + 1
        try:
            action()
        except (Killed, CheckpointError):
            points += 1
        else:
            saboteur.at = -1
            return points
        finally:
            saboteur.at = -1
        for path in checkpoint.all_in(folder):
            assert checkpoint.read(path).meta["env_steps"] >= 0, saboteur.calls
        assert checkpoint.read(checkpoint.latest(folder)).tensors["network"].shape == (4,)
        assert checkpoint.read(checkpoint.best(folder)).meta["eval_return"] == 9.0, saboteur.calls
        shutil.rmtree(folder)
        shutil.copytree(start, folder)


@pytest.mark.parametrize("env_steps", [9, 5], ids=["a new one", "over the only one"])
def test_a_crash_at_any_moment_of_a_write_leaves_one_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_steps: int
) -> None:
    folder = tmp_path / "checkpoints"
    write(folder, 5, 9.0)
    points = crash_points(monkeypatch, folder, Killed(), lambda: write(folder, env_steps, 9.0, value=1.0))
    assert points >= 7  # mkdir, 2 x write, their fsyncs, rename, 2 x fsync of a folder
    assert checkpoint.read(checkpoint.latest(folder)).tensors["network"].tolist() == [1.0] * 4
    write(folder, env_steps, 9.0, value=2.0)
    assert checkpoint.read(checkpoint.latest(folder)).tensors["network"].tolist() == [2.0] * 4


def test_a_crash_at_any_moment_of_a_prune_leaves_the_newest_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    for env_steps, eval_return in ((1, 2.0), (2, 9.0), (3, 3.0), (4, None)):
        write(folder, env_steps, eval_return)
    assert crash_points(monkeypatch, folder, Killed(), lambda: checkpoint.prune(folder, keep=1)) >= 4
    assert names(folder) == ["2", "4"]


def test_a_full_disk_is_an_error_that_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    write(folder, 5, 9.0)
    error = OSError(28, "No space left on device")
    assert crash_points(monkeypatch, folder, error, lambda: write(folder, 9, 9.0)) >= 7


def test_a_failed_write_says_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(
        CheckpointError, match=r"cannot write checkpoint .*000000000001: .*; the ones before it are untouch"
    ):
        write(tmp_path / "checkpoints", 1)


def test_damaged_tensors_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged: its sha256 does not match; use an older one"):
        checkpoint.read(path)


@pytest.mark.parametrize("file", ["meta.json", "tensors.safetensors"])
def test_a_missing_file_is_told(file: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / file).unlink()
    with pytest.raises(CheckpointError, match=f"cannot read checkpoint.*{file}"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\udcff"])
def test_damaged_meta_is_told_and_never_stops_a_run(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1, 100.0)
    write(tmp_path, 2, 1.0)
    (path / "meta.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        checkpoint.read(path)
    assert checkpoint.best(tmp_path).name == "000000000002"
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == ["2"]


def test_other_formats_and_lost_parts_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    change_meta(path, format=99)
    with pytest.raises(CheckpointError, match="has format 99, this Shoal reads 3"):
        checkpoint.read(path)
    change_meta(path, format=3, state={"mean": {"__tensor__": "state/gone"}})
    with pytest.raises(CheckpointError, match="is damaged: 'state/gone' is missing"):
        checkpoint.read(path)


def test_one_changed_digit_of_meta_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, 1, 12.5)
    write(tmp_path, 2, 13.5)
    text = (path / "meta.json").read_text()
    (path / "meta.json").write_text(text.replace("12.5", "92.5"))
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*: meta.json is damaged: its sha256 does not"):
        checkpoint.read(path)
    assert checkpoint.best(tmp_path).name == "000000000002"


def test_random_damage_gives_the_same_checkpoint_or_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path, 1)
    whole = (path / "meta.json").read_bytes()
    meta = checkpoint.read(path).meta
    for _ in range(50):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (path / "meta.json").write_bytes(data)
        try:
            read = checkpoint.read(path)
        except CheckpointError:
            continue
        assert read.meta == meta


@pytest.mark.parametrize("tensors", [b"", b"\xff" * 64])
def test_tensors_that_are_none_are_told_though_their_checksum_fits(tensors: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "tensors.safetensors").write_bytes(tensors)
    change_meta(path, sha256=hashlib.sha256(tensors).hexdigest())
    with pytest.raises(CheckpointError, match="is no checkpoint of Shoal's"):
        checkpoint.read(path)


def test_a_name_of_a_tensor_that_is_none_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    change_meta(path, state={"mean": {"__tensor__": ["a"]}})
    with pytest.raises(CheckpointError, match="is no checkpoint of Shoal's"):
        checkpoint.read(path)
