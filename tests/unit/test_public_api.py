"""What `import shoal` gives, and costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shoal
from core import errors
from shoal import settings
from shoal.processes import HOME

HEAVY = ("torch", "gymnasium", "grpc", "numpy", "rich", "matplotlib", "yaml")


def python(code: str, cwd: Path = HOME, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds Shoal beside whatever is in `cwd`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": str(HOME), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def test_all_is_sorted_and_complete() -> None:
    assert list(shoal.__all__) == sorted(shoal.__all__)
    assert {e.__name__ for e in errors.all_errors()} <= set(shoal.__all__)
    assert {"train", "load", "Config", "Policy", "RunResult", "__version__"} <= set(shoal.__all__)
    assert dir(shoal) == list(shoal.__all__)


def test_the_typed_names_are_the_lazy_ones() -> None:
    source = inspect.getsource(shoal)
    block = source[source.index("if TYPE_CHECKING:") : source.index("_HOMES")]
    for name in set(shoal.__all__) - {"__version__"}:
        assert name in block, name


@pytest.mark.slow
def test_every_name_can_be_had_in_any_order() -> None:
    for names in (shoal.__all__, list(reversed(shoal.__all__))):
        code = "import shoal\n" + "\n".join(f"print(getattr(shoal, {name!r}))" for name in names)
        shown = python(code)
        assert shown.returncode == 0, shown.stderr
        assert "<module" not in shown.stdout


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        shoal.trian  # noqa: B018


def test_importing_shoal_is_light() -> None:
    shown = python(f"import shoal, sys; shoal.ConfigError; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert shown.stdout == "[]\n", shown.stderr


def test_the_launcher_needs_none_of_the_heavy_ones() -> None:
    code = (
        "import shoal.launch, shoal.training, shoal.cli, shoal.settings, sys\n"
        "shoal.settings.read(None, {'algorithm': 'dqn'})\n"
        "print([m for m in ('torch', 'gymnasium', 'grpc', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    assert python(code).stdout == "[]\n"


@pytest.mark.parametrize("name", ["core", "learner", "actors", "replay_server", "protos"])
def test_a_module_that_hides_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("")
    shown = python("import shoal", cwd=tmp_path)
    assert shown.returncode == 1
    assert f"ImportError: {tmp_path / name}.py hides Shoal's own package '{name}'" in shown.stderr
    assert "rename it" in shown.stderr
    command = [sys.executable, "-m", "shoal", "--version"]
    environment = {"PYTHONPATH": str(HOME), "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"{name}.py hides Shoal's own package" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_module_imported_before_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "core.py").write_text("")
    code = "import sys; sys.path.insert(0, 'mine'); import core; del sys.path[0]; import shoal"
    shown = python(code, cwd=tmp_path)
    assert f"{tmp_path / 'mine' / 'core.py'} hides Shoal's own package 'core'" in shown.stderr


def test_a_folder_of_the_same_name_elsewhere_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    assert python("import shoal", cwd=tmp_path).returncode == 0


OTHERS = {"config", "settings", "launcher", "address", "wait_for_nodes_s", "resume", "overwrite", "quiet"}


def test_train_has_every_flag() -> None:
    named = inspect.signature(shoal.train).parameters
    assert set(settings.FLAGS) | OTHERS == set(named)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in named.values())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with two checkpoints of an untrained policy; the older one has the better evaluation."""
    from core import checkpoint, envs
    from core.algorithms import make
    from core.rl.optim import flatten

    vector = envs.make("CartPole-v1", 1)
    spec = envs.spec_of("CartPole-v1", vector)
    vector.close()
    network = make("ppo", {}).network(spec)
    meta = {"algorithm": "ppo", "settings": {}, "env": "CartPole-v1", "env_kwargs": {}, "env_spec": spec.to_plain()}
    for env_steps, eval_return in ((1000, 90.0), (2000, 80.0)):
        counters = {"env_steps": env_steps, "version": env_steps // 100, "eval_return": eval_return}
        checkpoint.write(tmp_path / "checkpoints", meta | counters, flatten(network).data, {})
    return tmp_path


@pytest.mark.slow
def test_a_loaded_policy_acts_on_one_observation_and_on_many(run: Path) -> None:
    policy = shoal.load(run)
    assert (policy.algorithm, policy.env, policy.env_steps) == ("ppo", "CartPole-v1", 1000)
    batch = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions = policy.act(batch)
    assert actions.shape == (50,)
    assert actions.dtype == np.int64
    assert [policy.act(obs) for obs in batch] == actions.tolist()
    assert policy.act(list(map(float, batch[0]))).shape == ()
    explored = [policy.act(batch, explore=True) for _ in range(2)]
    assert (explored[0] != explored[1]).any()
    assert policy.act(batch[::-1], explore=True).shape == (50,)
    assert policy.act(batch[:3], explore=True).shape == (3,)
    with pytest.raises(ValueError, match=r"holds nan at index \(2,\)"):
        policy.act([0.0, 0.0, np.nan, 0.0])
    with pytest.raises(ValueError, match=r"observations of shape \(4,\), got \(3,\)"):
        policy.act(np.zeros(3))


@pytest.mark.slow
def test_which_checkpoint_is_loaded(run: Path) -> None:
    assert shoal.load(run).env_steps == 1000
    assert shoal.load(str(run), "latest").env_steps == 2000
    assert shoal.load(run, "000000002000").env_steps == 2000
    assert shoal.load(run, run / "checkpoints" / "000000001000").env_steps == 1000
    with pytest.raises(errors.CheckpointError, match=r"000000001000, 000000002000"):
        shoal.load(run, "3000")
    with pytest.raises(errors.ConfigError, match="no run directory"):
        shoal.load(run / "nowhere")


@pytest.mark.slow
def test_eval_prints_figures_and_writes_a_film(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from shoal.cli import main

    assert main(["eval", str(run), "--episodes", "3", "--video"]) == 0
    out = capsys.readouterr().out
    for word in ("mean return", "standard deviation", "lowest", "highest"):
        assert word in out
    (film,) = (run / "videos").iterdir()
    assert film.read_bytes().startswith(b"GIF89a")
    assert str(film) in out
    assert main(["eval", str(run), "--episodes", "3"]) == 0
    assert capsys.readouterr().out == "".join(out.splitlines(keepends=True)[:-1])
