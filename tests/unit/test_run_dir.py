"""Run directories: created, refused, resumed, overwritten."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError
from shoal import run_dir
from shoal.processes import HOME
from shoal.run_dir import RunDir, default_path, release


def prepare(path: Path, *, resume: bool = False, overwrite: bool = False) -> RunDir:
    """A run directory that no run uses any more."""
    run = run_dir.prepare(path, resume=resume, overwrite=overwrite)
    release(run)
    return run


def fill(run: RunDir) -> None:
    """What Shoal leaves, and two files of the user's."""
    (run.checkpoints / "000000001000").mkdir()
    for path in (
        run.config,
        run.metrics,
        run.summary,
        run.learning_curve,
        run.logs / "learner.log",
        run.tensorboard / "events.out.tfevents.1",
        run.checkpoints / "000000001000" / "meta.json",
        run.checkpoints / "000000001000" / "tensors.safetensors",
        run.path / "notes.txt",
        run.logs / "my notes.txt",
    ):
        path.write_text("x")


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    run = prepare(tmp_path / "a" / "b")
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "logs", "tensorboard"]
    assert not run.holds_a_run()


def test_a_directory_without_a_run_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    prepare(tmp_path)
    run = prepare(tmp_path)
    assert not run.holds_a_run()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_is_not_touched_unasked(tmp_path: Path) -> None:
    fill(prepare(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*--overwrite.*--run-dir"):
        prepare(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sign", ["config.yaml", "metrics.jsonl", "summary.json", "checkpoints/000000001000"])
def test_any_trace_of_a_run_counts(tmp_path: Path, sign: str) -> None:
    (tmp_path / sign).parent.mkdir(exist_ok=True)
    (tmp_path / sign).touch()
    assert RunDir(tmp_path).holds_a_run()


def test_resume_keeps_everything(tmp_path: Path) -> None:
    fill(prepare(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    prepare(tmp_path, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        prepare(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_overwrite_removes_what_shoal_made_and_nothing_else(tmp_path: Path) -> None:
    fill(prepare(tmp_path))
    run = prepare(tmp_path, overwrite=True)
    left = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(left) == ["logs/my notes.txt", "notes.txt"]
    assert not any(run.checkpoints.iterdir())


def test_a_linked_folder_stays_and_only_shoals_files_in_it_go(tmp_path: Path) -> None:
    outside = tmp_path / "big disk"
    (outside / "000000001000").mkdir(parents=True)
    (outside / "000000001000" / "meta.json").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(outside)
    run = prepare(tmp_path / "run", overwrite=True)
    assert run.checkpoints.is_symlink()
    assert outside.is_dir()
    assert not list(outside.rglob("*.json"))


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        prepare(tmp_path, resume=True, overwrite=True)


def test_a_path_that_cannot_be_a_directory_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run directory .*file cannot be used: it is a file.*--run-dir"):
        prepare(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"Not a directory"):
        prepare(tmp_path / "file" / "run")


def test_an_unwritable_directory_is_named_with_the_reason() -> None:
    """Even root cannot write there."""
    with pytest.raises(ConfigError, match=r"run directory /proc cannot be used: "):
        prepare(Path("/proc"))


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}, {}])
def test_a_run_in_use_is_not_taken(tmp_path: Path, how: dict[str, bool]) -> None:
    code = f"from shoal.run_dir import *; prepare(Path({str(tmp_path)!r})); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=HOME, stdin=pipe, stdout=pipe) as user:
        assert user.stdout is not None
        user.stdout.readline()
        (tmp_path / "config.yaml").touch() if how else None
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match=rf"a run is using it \(pid {user.pid}\); stop it first"):
            prepare(tmp_path, **how)
        assert sorted(tmp_path.rglob("*")) == before
        user.kill()
    prepare(tmp_path, **how)
    assert not (tmp_path / ".lock").exists()


def test_the_default_name_is_a_plain_file_name() -> None:
    path = default_path("ppo", "ALE/Pong-v5", 3)
    assert re.fullmatch(r"ppo-ALE_Pong-v5-3-\d{8}-\d{6}", path.name)
    assert path.parent == Path("runs")
