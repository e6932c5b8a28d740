"""The command line: flags, messages, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import shoal
from core.errors import ConfigError, DivergedError, ShoalError, all_errors
from shoal import settings
from shoal.cli import main, parse
from shoal.processes import HOME, describe

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The lead's entry points, replaced by ones that note how they are called."""
    calls: list[tuple[Any, ...]] = []

    def learner(config: Any, *, sockets: Sequence[str], replay_address: str | None, resume: bool) -> int:
        calls.append((config.env_steps, config.network.listen, list(sockets), replay_address, resume))
        return 0

    def actor(learner_address: str, wanted_slot: int | None, allowed: Sequence[str], _: Any) -> int:
        calls.append((learner_address, wanted_slot, *allowed))
        return 0

    def replay(listen: str, *, sockets: Sequence[str], **_: Any) -> int:
        calls.append((listen, list(sockets)))
        return 0

    for name, run in (("learner", learner), ("actors", actor), ("replay_server", replay)):
        module = types.ModuleType(f"{name}.main")
        vars(module)["run"] = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_unset_flags_are_none_so_that_layers_below_count() -> None:
    arguments = parse(["train"])
    assert {name: getattr(arguments, name) for name in settings.FLAGS} == dict.fromkeys(settings.FLAGS)


def test_flags_lie_above_the_file_and_sets_above_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 2\nactors: 2\nenv_steps: 2\n")
    arguments = parse(
        ["train", "--seed", "3", "--actors", "3", "--set", "actors=4", "ppo.gamma=0.5", "--set", "env=X-v0"]
    )
    flags = {name: getattr(arguments, name) for name in settings.FLAGS}
    config = settings.read(file, flags, arguments.set)
    assert (config.env_steps, config.seed, config.actors, config.env) == (2, 3, 4, "X-v0")
    assert config.settings["gamma"] == 0.5


def test_every_problem_is_reported_at_once(capsys: Capture) -> None:
    code = main(["train", "--actors", "0", "--replay", "sideways", "--set", "sede=3", "ppo.gama=1", "ppo.epochs=-1"])
    error = capsys.readouterr().err
    assert code == 2
    for part in ("actors", "replay", "sede", "'seed'", "ppo.gama", "'ppo.gamma'", "ppo.epochs", "5 problems"):
        assert part in error


def test_an_unknown_flag_names_the_nearest(capsys: Capture) -> None:
    assert main(["train", "--evn", "CartPole-v1"]) == 2
    assert capsys.readouterr().err == "error: shoal train: unknown argument --evn CartPole-v1; did you mean '--env'?\n"


def test_services_are_called_with_their_flags(services: list[tuple[Any, ...]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    learner = ["learner", "--env-steps", "7", "--listen", "0.0.0.0:7000", "--run-dir", str(run), "--socket", "/s"]
    assert main([*learner, "--replay-address", "unix:/r"]) == 0
    (run / "checkpoints" / "0").mkdir()
    (run / "checkpoints" / "0" / "meta.json").touch()
    assert main([*learner, "--resume"]) == 0
    assert main(["actor", "--learner", "host:1", "--slot", "3", "--import", "my.envs"]) == 0
    assert main(["replay", "--listen", "host:2", "--data-dir", "memory", "--socket", "/a", "--socket", "/b"]) == 0
    assert services == [
        (7, "0.0.0.0:7000", ["/s"], "unix:/r", False),
        (7, "0.0.0.0:7000", ["/s"], None, True),
        ("host:1", 3, "my.envs"),
        ("host:2", ["/a", "/b"]),
    ]
    assert (run / "config.yaml").is_file()


def test_a_learner_of_its_own_refuses_a_run_that_is_there(services: list[tuple[Any, ...]], tmp_path: Path) -> None:
    assert main(["learner", "--run-dir", str(tmp_path)]) == 0
    assert main(["learner", "--run-dir", str(tmp_path)]) == 2
    assert len(services) == 1


def test_a_learner_of_its_own_draws_what_it_wrote(services: list[tuple[Any, ...]], tmp_path: Path) -> None:
    assert main(["learner", "--run-dir", str(tmp_path)]) == 0
    assert not (tmp_path / "learning_curve.png").exists(), "there was nothing to draw"
    lines = ({"kind": "progress", "env_steps": steps, "mean_return": 9.0, "wall_s": 1.0} for steps in (100, 200))
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["learner", "--run-dir", str(tmp_path), "--resume"]) == 0
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert len(services) == 2


def test_a_complete_run_is_not_resumed_automatically(
    services: list[tuple[Any, ...]], tmp_path: Path, capsys: Capture
) -> None:
    learner = ["learner", "--run-dir", str(tmp_path / "run"), "--env-steps", "100", "--resume", "auto"]
    assert main(learner) == 0
    summary = {"ended": "budget", "algorithm": "ppo", "env": "E", "seed": 1, "env_steps": 104, "eval_return": 9.5}
    for ended, steps, calls in (("interrupted", "100", 2), ("budget", "100", 2), ("budget", "200", 3)):
        (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "ended": ended}))
        assert main([*learner, "--env-steps", steps]) == 0
        assert len(services) == calls
    assert "is complete: 104 env steps, evaluation 9.5" in capsys.readouterr().out


def test_a_learner_that_could_not_begin_leaves_no_run(tmp_path: Path, services: list[Any]) -> None:
    def in_use(*_: Any, **__: Any) -> int:
        raise OSError("port in use")

    vars(sys.modules["learner.main"])["run"] = in_use
    for _ in range(2):
        with pytest.raises(OSError, match="port in use"):
            main(["learner", "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_without_a_checkpoint_resume_starts_from_the_beginning(
    services: list[tuple[Any, ...]], tmp_path: Path, capsys: Capture
) -> None:
    assert main(["learner", "--run-dir", str(tmp_path)]) == 0
    assert main(["learner", "--run-dir", str(tmp_path), "--resume"]) == 0
    assert services[1][-1] is False
    assert "starts from its beginning" in capsys.readouterr().err


def test_resume_auto_begins_a_run_or_goes_on_with_it(services: list[tuple[Any, ...]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        assert main(["learner", "--run-dir", str(run), "--resume", "auto"]) == 0
        (run / "checkpoints" / "0").mkdir(exist_ok=True)
        (run / "checkpoints" / "0" / "meta.json").touch()
    assert [call[-1] for call in services] == [False, True]


def test_resume_auto_needs_a_directory(capsys: Capture) -> None:
    for command in ("train", "learner"):
        assert main([command, "--resume", "auto"]) == 2
        assert "--resume auto needs --run-dir" in capsys.readouterr().err


def test_security_flags_are_left_to_the_environment(
    services: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("SHOAL_TOKEN_FILE", "SHOAL_TLS_CA", "SHOAL_TLS_NAME"):
        monkeypatch.setenv(variable, "")
    flags = ["--token-file", "tokens", "--tls-ca", "ca.pem", "--tls-name", "learner"]
    assert main(["actor", "--learner", "host:1", *flags]) == 0
    assert os.environ["SHOAL_TOKEN_FILE"] == str(tmp_path / "tokens"), "children may run elsewhere"
    assert (os.environ["SHOAL_TLS_CA"], os.environ["SHOAL_TLS_NAME"]) == (str(tmp_path / "ca.pem"), "learner")


def test_bad_arguments_are_refused_before_anything_is_loaded(capsys: Capture) -> None:
    assert main(["eval", "nowhere", "--episodes", "0"]) == 2
    assert "--episodes 0" in capsys.readouterr().err
    assert main(["status", "foo"]) == 2
    assert "HOST:PORT or unix:PATH is needed" in capsys.readouterr().err


def test_the_working_directory_is_last_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "core.py").write_text("raise RuntimeError")
    code = "import sys; from shoal.__main__ import main; sys.argv[1:] = ['status', 'foo']; main(); print(sys.path[-1])"
    environment = {"PYTHONPATH": str(HOME), "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.splitlines()[-1] == str(tmp_path), shown.stderr


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.__name__)
def test_an_error_of_shoals_is_one_message_and_its_exit_code(
    kind: type[ShoalError], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise kind("what, the value, what to do")

    monkeypatch.setattr("shoal.training.run", fail)
    assert main(["train"]) == kind.exit_code
    assert capsys.readouterr() == ("", "error: what, the value, what to do\n")


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("shoal.training.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shoal.training.run", interrupt)
    assert main(["train"]) == 130


def test_bench_passes_its_arguments_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.processes.HOME", tmp_path)
    with pytest.raises(SystemExit):
        main(["bench-mark"])
    assert main(["bench", "--help"]) == 2
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__main__.py").write_text("import sys; sys.exit(len(sys.argv))")
    assert main(["bench", "speed", "--seeds", "5"]) == 4


def test_bench_replay_is_called_with_its_own_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("shoal.processes.HOME", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "benchmarks" / "replay").mkdir(parents=True)
    assert main(["bench", "replay"]) == 2
    assert f"there is no benchmarks/replay/__init__.py in {tmp_path}" in capsys.readouterr().err
    (tmp_path / "benchmarks" / "replay" / "__init__.py").touch()
    module, calls = types.ModuleType("benchmarks.replay"), []

    def run(arguments: list[str]) -> int:
        calls.append(arguments)
        return 1

    vars(module)["main"] = run
    monkeypatch.setitem(sys.modules, "benchmarks.replay", module)
    for words in (["--vs", "reverb"], ["--help"], ["insert", "--repeats=5"], []):
        assert main(["bench", "replay", *words]) == 1
        assert calls.pop() == words


def test_the_module_is_the_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "shoal", "--version"], cwd=HOME, capture_output=True, text=True)
    assert shown.stdout == f"shoal {shoal.__version__}\n"


def test_endings_in_words() -> None:
    assert describe(3) == "ended with exit code 3"
    assert describe(-9) == "was killed by SIGKILL (out of memory, or kill -9)"
    assert describe(-15) == "was killed by SIGTERM"
    assert describe(-63) == "was killed by signal 63"


def test_the_launchers_errors_have_their_classes() -> None:
    assert DivergedError.exit_code != ConfigError.exit_code
    codes = [kind.exit_code for kind in all_errors() if "exit_code" in vars(kind)]
    assert len(codes) == len(set(codes))
