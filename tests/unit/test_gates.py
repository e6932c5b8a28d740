"""Every gate of `make test` is seen to fail, and no test is without an assertion."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protos", "core", "actors", "replay_server", "learner", "shoal")


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and the settings of the tools, to be spoiled."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


BAD_IMPORTS = [
    ("services", "core/errors.py", "import learner"),
    ("services", "actors/__init__.py", "import replay_server"),
    ("services", "replay_server/__init__.py", "import learner"),
    ("core", "core/errors.py", "import core.types"),
    ("core", "core/unplaced.py", "x = 1"),
    ("replay-server", "replay_server/__init__.py", "import core.rl.scan"),
    ("torch", "core/wire.py", "import torch"),
]


@pytest.mark.parametrize(("contract", "file", "line"), BAD_IMPORTS)
def test_import_contract_catches(copy: Path, contract: str, file: str, line: str) -> None:
    target = copy / file
    target.write_text((target.read_text() if target.exists() else "") + f"\n{line}\n")
    result = run_in(copy, tool("lint-imports"), "--no-cache", "--contract", contract)
    assert result.returncode != 0, result.stdout
    assert "BROKEN" in result.stdout or "not listed" in result.stdout, result.stdout + result.stderr


def test_import_contracts_hold_in_the_untouched_copy(copy: Path) -> None:
    result = run_in(copy, tool("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (["format", "--check"], "x = {  'a':1 }\n"),
        (["check"], "import os\n"),
        (["check"], "def f(x=[]):\n    return x\n"),
    ],
    ids=["format", "unused import", "mutable default"],
)
def test_ruff_catches(tmp_path: Path, command: list[str], source: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    result = run_in(tmp_path, tool("ruff"), *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "bad.py")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "bad.py" in result.stdout


@pytest.mark.slow
def test_mypy_catches_what_has_no_types(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(x):\n    return x\n")
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    result = run_in(tmp_path, tool("mypy"), *settings, "bad.py")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "no-untyped-def" in result.stdout


@pytest.mark.slow
def test_a_warning_fails_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_bad.py").write_text("import warnings\ndef test_bad():\n    warnings.warn('look')\n")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    result = run_in(tmp_path, *command, "-p", "no:cacheprovider", "test_bad.py")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "UserWarning: look" in result.stdout


def test_the_launcher_imports_no_torch() -> None:
    acting = {"collecting", "evaluate", "policy"}  # these run a network; the commands import them when they are called
    light = sorted(file.stem for file in (ROOT / "shoal").glob("*.py") if file.stem not in acting)
    imports = "; ".join(f"import shoal.{name}" for name in light if name != "__init__")
    result = run_in(ROOT, sys.executable, "-c", f"{imports}; import sys; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr or "torch was imported"


def idle_tests(source: str) -> Iterator[str]:
    """Test functions in `source` in which nothing can fail; `pytest.raises` and helpers named check_ or assert_ can."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if function.name.startswith("test_") and not any(can_fail(node) for node in ast.walk(function)):
            yield function.name


def can_fail(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("raises", "warns", "fail", "run_state_machine_as_test") or name.startswith(("assert_", "check_"))


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.name)
def test_every_test_has_an_assertion(file: Path) -> None:
    assert list(idle_tests(file.read_text())) == []


def test_a_test_without_assertion_is_caught() -> None:
    source = textwrap.dedent("""
        def test_bad():
            compute()
        def test_raises():
            with pytest.raises(ValueError):
                compute()
        def test_plain():
            assert compute()
        def test_numpy():
            np.testing.assert_allclose(a, b)
    """)
    assert list(idle_tests(source)) == ["test_bad"]
