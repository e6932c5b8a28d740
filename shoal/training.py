"""`shoal.train`: a whole run, on this machine or a Ray cluster, from its settings to its result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core import checkpoint
from core import config as configuration
from core.config import Config
from core.errors import CheckpointError, ConfigError, ShoalError
from core.presets import PRESETS, find
from shoal import settings as reader
from shoal.live import make_view
from shoal.replay_child import check_empty
from shoal.run_dir import RunDir, default_path, prepare, release, remove_run
from shoal.run_on import LOCAL, RunOn

if TYPE_CHECKING:
    from shoal.policy import Policy

REFUSALS = (ConfigError, CheckpointError)
"""What a learner says before it trains, when it cannot use its settings."""


@dataclass(frozen=True)
class RunResult:
    """What came of a run, as its summary.json says. A figure that does not exist is None."""

    run_dir: Path
    algorithm: str
    env: str
    seed: int
    env_steps: int
    updates: int
    wall_s: float
    env_steps_per_s: float | None
    mean_return: float | None
    """Mean return of the last 100 episodes of training."""
    eval_return: float | None
    """Mean return of the last evaluation, of the final params."""
    solved_at_env_steps: int | None
    """The first evaluation that reached the target return."""
    bottleneck: str | None
    restarts: int
    summary: Mapping[str, Any]
    """Everything in summary.json."""

    @classmethod
    def read(cls, run_dir: str | PathLike[str]) -> RunResult:
        """The result of a finished run. Raises ConfigError where there is none."""
        run = RunDir(Path(run_dir))
        try:
            summary = json.loads(run.summary.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{run.path} holds no finished run: summary.json cannot be read ({error})") from None
        names = {f.name for f in dataclasses.fields(cls)} - {"run_dir", "summary"}
        return cls(run_dir=run.path, summary=summary, **{name: summary.get(name) for name in names})

    def load(self, checkpoint: str | PathLike[str] = "best") -> Policy:
        """The trained policy; see `shoal.load`."""
        from shoal.policy import load

        return load(self.run_dir, checkpoint)


def train(
    *,
    algorithm: str | None = None,
    env: str | None = None,
    imports: Sequence[str] | None = None,
    actors: int | None = None,
    envs_per_actor: int | None = None,
    env_steps: int | None = None,
    seed: int | None = None,
    run_dir: str | PathLike[str] | None = None,
    target_return: float | None = None,
    policy_lag: int | str | None = None,
    replay: str | None = None,
    data_dir: str | PathLike[str] | None = None,
    device: str | None = None,
    listen: str | None = None,
    page: str | None = None,
    config: str | PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    launcher: str = "local",
    address: str = "auto",
    wait_for_nodes_s: float = 0.0,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Train a policy with actors, a learner and where needed a replay server as processes of this machine.

    With `launcher` "ray" they are on the Ray cluster at `address`; it may take `wait_for_nodes_s` to have enough CPUs.

    Every argument means what the flag of `shoal train` means. What is not given is taken from the YAML file `config`,
    below that from the preset of the algorithm and environment, below that from the defaults. `settings` are all others
    by their dotted names, such as `{"ppo.learning_rate": 1e-3}`.

    Raises ConfigError for settings that cannot be used and the error that ended the run where one did, such as
    EnvironmentFailedError or DivergedError. Ctrl-C raises KeyboardInterrupt once the checkpoint is written.
    """
    given = locals()
    flags = {name: given[name] for name in reader.FLAGS}
    file = None if config is None else Path(config)
    where = RunOn(launcher, address, wait_for_nodes_s)
    return run(file, flags, more=settings, on=where, resume=resume, overwrite=overwrite, quiet=quiet)


def run(
    file: Path | None,
    flags: Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    more: Mapping[str, Any] | None = None,
    on: RunOn = LOCAL,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> RunResult:
    """`train` with its settings as flags and `--set` texts."""
    on.check()
    if on.launcher == "ray" and flags.get("run_dir") is not None:
        from shoal.on_ray import driver

        if not overwrite and driver.goes_on(Path(flags["run_dir"])):
            print("This run is under way: attached to it, with the settings that it was started with.", file=sys.stderr)
            return attach(Path(flags["run_dir"]), quiet=quiet)
    auto, resume = resume == "auto", to_resume(resume, flags)
    config, place = set_up(file, flags, sets, more=more, resume=resume, overwrite=overwrite)
    with undone_if_refused(place, resume):
        write_config(config, place)
        if not resume:
            check_empty(config)
        if not (quiet or resume):
            _tell_preset(config)
        if auto and is_complete(config, place):
            return RunResult.read(place.path)
        with _says_how_to_continue(place):
            go_on = resume and can_resume(place)
            on.train(config, place, lambda: make_view(place.path, quiet=quiet), resume=go_on)
    return _result(config, place, quiet)


def attach(run_dir: Path, *, quiet: bool = False) -> RunResult:
    """Show the progress of a run on Ray until it is over. Raises ConfigError where there is none."""
    from shoal.on_ray import driver

    place = RunDir(run_dir)
    config = reader.read(place.config, {})
    with _says_how_to_continue(place):
        driver.attach(config, place, lambda: make_view(place.path, quiet=quiet))
    return _result(config, place, quiet)


@contextlib.contextmanager
def _says_how_to_continue(place: RunDir) -> Iterator[None]:
    """What to do after a run that was stopped or failed."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        text = _how_to_continue(place)
        if isinstance(error, SystemExit) and error.code == 128 + signal.SIGHUP:
            text = f"The run goes on; to see it again: shoal attach {shlex.quote(str(place.path))}"
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(text or "Stopped before there was anything to write into a checkpoint.", file=sys.stderr)
        raise
    except REFUSALS:
        raise
    except ShoalError as error:
        error.args = ("\n".join(filter(None, (str(error), _how_to_continue(place)))),)
        raise


def _result(config: Config, place: RunDir, quiet: bool) -> RunResult:
    """What a run left when it was over: read, drawn and shown."""
    if not place.summary.is_file():
        raise ShoalError(f"the learner ended without a summary; see {place.logs / 'learner.log'}")
    result = RunResult.read(place.path)
    draw(place)
    if not quiet:
        from shoal.report import show

        show(result, config.target_return)
    return result


def to_resume(resume: bool | Literal["auto"], flags: Mapping[str, Any]) -> bool:
    """Whether a run is to be continued; "auto": where there is one in its directory, which must be given."""
    if resume != "auto":
        return resume
    if flags.get("run_dir") is None:
        raise ConfigError("--resume auto needs --run-dir: the run to continue, or the place of the one to begin")
    return RunDir(Path(flags["run_dir"])).config.is_file()


def is_complete(config: Config, place: RunDir) -> bool:
    """Whether the run has reached its budget or target, so that there is nothing to go on with; says so then."""
    try:
        done = RunResult.read(place.path)
    except ConfigError:
        return False
    target = config.target_return
    solved = target is not None and done.eval_return is not None and done.eval_return >= target
    if done.summary.get("ended") == "interrupted" or not (solved or done.env_steps >= config.env_steps):
        return False
    print(f"The run in {place.path} is complete: {done.env_steps:,} env steps, evaluation {done.eval_return}.")
    return True


def set_up(
    file: Path | None,
    flags: Mapping[str, Any],
    sets: Sequence[str] = (),
    *,
    more: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> tuple[Config, RunDir]:
    """The settings and the run directory, both ready for use. A resumed run goes on with its own settings below."""
    if resume and file is None and flags.get("run_dir") is not None:
        own = RunDir(Path(flags["run_dir"])).config
        file = own if own.is_file() else None
    config = reader.read(file, flags, sets, more)
    if config.run_dir is None:
        if resume:
            raise ConfigError("--resume needs the --run-dir of the run to continue")
        config = dataclasses.replace(config, run_dir=str(default_path(config.algorithm, config.env, config.seed)))
    return config, prepare(Path(str(config.run_dir)), resume=resume, overwrite=overwrite)


def write_config(config: Config, place: RunDir) -> None:
    """Write config.yaml in one step."""
    temporary = place.config.with_suffix(".tmp")
    temporary.write_text(configuration.to_yaml(config), encoding="utf-8")
    os.replace(temporary, place.config)


@contextlib.contextmanager
def undone_if_refused(
    place: RunDir, resume: bool, refusals: type[Exception] | tuple[type[Exception], ...] = REFUSALS
) -> Iterator[None]:
    """Where the learner refuses the settings, leave the folder as it was, so that the corrected command just works.

    A run that has written figures was not refused. The folder is free for other runs afterwards.
    """
    before = place.config.read_text(encoding="utf-8") if resume else None
    size = _size(place.metrics)
    try:
        yield
    except refusals:
        if _size(place.metrics) == size:
            if before is not None:
                place.config.write_text(before, encoding="utf-8")
            else:
                remove_run(place)
        raise
    finally:
        release(place)
        with contextlib.suppress(OSError):  # it holds something, as a rule
            place.path.rmdir()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def can_resume(place: RunDir) -> bool:
    """Whether there is a checkpoint to go on from; says so where there is none."""
    if checkpoint.all_in(place.checkpoints):
        return True
    print(f"There is no checkpoint in {place.checkpoints} yet: the run starts from its beginning.", file=sys.stderr)
    return False


def _how_to_continue(place: RunDir) -> str:
    """What to say after a run that was stopped or failed; nothing where it has no checkpoint."""
    try:
        newest = checkpoint.latest(place.checkpoints)
    except CheckpointError:
        return ""
    launcher = "--launcher ray " if place.ray_run.is_file() else ""
    again = f"shoal train {launcher}--resume --run-dir {shlex.quote(str(place.path))}"
    return f"Stopped. The newest checkpoint is {newest}; to continue: {again}"


def _tell_preset(config: Config) -> None:
    """Which tuned settings were picked up, and where they can be read."""
    name, preset = find(PRESETS, config.algorithm, config.env)
    if not preset:
        print(f"No preset for {config.algorithm} on {config.env}: what is not given keeps its default.")
        return
    own = preset.get(config.algorithm, {})
    told = ", ".join(f"{key}={value}" for key, value in {**preset, **own}.items() if key != config.algorithm)
    print(f"Preset of {config.algorithm} on {name}, below your own settings: {told}")


def draw(place: RunDir) -> None:
    """Draw the learning curve, where there is anything to draw."""
    from shoal.plots import draw_learning_curve

    with contextlib.suppress(ConfigError):
        draw_learning_curve(place.path)
