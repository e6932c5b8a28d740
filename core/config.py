"""The settings of a run: one tree of frozen dataclasses, and how it is read.

The launcher reads it once and writes it into the run directory; the learner is told everything by it, actors and
replay servers by the learner. Layers, each over the one before: defaults, preset, YAML file, flags, `--set`.
The algorithm's own settings are a section under the algorithm's name (`ppo.learning_rate`); they are kept as they are
here, and checked by core/algorithms, which knows their dataclass. Pure data and one file read; no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from core import fields, yaml12
from core.addresses import is_host_port
from core.errors import ConfigError
from core.fields import Settings, bounded
from core.presets import PRESETS, Presets, find


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """Greedy evaluation of frozen params, its time left out of every speed."""

    every_env_steps: int = bounded(5_000, low=1)
    """Env steps of training between two evaluations."""
    episodes: int = bounded(20, low=1)
    """Episodes of one evaluation; their seeds are none of training's."""


@dataclass(frozen=True)
class CheckpointConfig(Settings):
    """When the learner writes all that is needed to resume."""

    every_env_steps: int = bounded(50_000, low=1)
    """With a fixed lag: env steps between two checkpoints, in whole rounds. All environments begin anew there, so that
    a run that goes on from one gives what it would have given."""
    every_s: float = bounded(60.0, above=0)
    """In async pace: seconds between two checkpoints. One more is written at the end of any run."""
    keep: int = bounded(3, low=1)
    """Checkpoints kept, beside the best and the two newest that a run goes on from exactly; older ones are deleted."""


@dataclass(frozen=True)
class FaultsConfig(Settings):
    """How long who waits for whom, and how often a dead process is started again."""

    restarts: int = bounded(3, low=0)
    """Times in a row that each process may be started again before the run ends; one that lived for two minutes has all
    of them again."""
    rejoin_grace_s: float = bounded(10.0, low=0)
    """How long a round waits for a dead actor's replacement before it goes on without that slot."""
    learner_patience_s: float = bounded(30.0, low=0)
    """How long an actor tries to reach a lost learner, and both a lost replay server, before they end."""
    step_deadline_s: float | None = bounded(300.0, above=0)
    """Longest making of an actor's environments (at least 30 s), reset, or step, before its end; null: no limit."""
    start_timeout_s: float = bounded(60.0, above=0)
    """How long the learner waits at its start for a replay server, and with a fixed lag for actors after the first."""


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """Addresses, limits and deadlines of the services."""

    listen: str = "127.0.0.1:0"
    """HOST:PORT where the learner listens; port 0 takes a free one. Loopback, unless it is told otherwise."""
    page: str | None = "127.0.0.1:0"
    """HOST:PORT of the learner's web page; port 0 takes a free one, null serves none. Other hosts than loopback need
    tokens."""
    metrics_port: int | None = bounded(None, low=0, high=65_535)
    """Port of the learner's /metrics, /healthz and /readyz; 0 takes a free one, null serves none."""
    replay_metrics_port: int | None = bounded(None, low=0, high=65_535)
    """The same of the replay server that the launcher starts."""
    actor_metrics_port: int | None = bounded(None, low=1, high=65_535)
    """The same of the launcher's actors: that of the first; the actor in slot n has this port + n."""
    metrics_host: str = "127.0.0.1"
    """Address on which all of them answer: loopback, unless it is told otherwise; whoever reaches it may read them."""
    window_chunks: int = bounded(2, low=1, high=1024)
    """Chunks that an actor may have sent without an acknowledgement."""
    max_chunk_bytes: int = bounded(1 << 20, low=1 << 12, high=4 << 20)
    """Larger unrolls are sent in parts of this size. 64 KiB to 1 MiB is what gRPC moves fastest."""
    max_message_bytes: int = bounded(64 << 20, low=1 << 16, high=(1 << 31) - 1)
    """Larger messages are refused by whoever receives them; weights and batches must fit."""
    call_timeout_s: float = bounded(10.0, above=0)
    """Deadline of the learner's request that the replay server makes its table."""
    keepalive_s: float = bounded(10.0, low=1)
    """Silence on a connection after which its other end is asked whether it lives."""

    def contradictions(self) -> Iterator[str]:
        """An address that is none, and chunks that no message can hold."""
        if not is_host_port(self.listen):
            yield f"listen: must be HOST:PORT with a port from 0 to 65535, not {self.listen!r}"
        if self.page is not None and not is_host_port(self.page):
            yield f"page: must be HOST:PORT with a port from 0 to 65535, or null for no page, not {self.page!r}"
        if self.max_chunk_bytes > self.max_message_bytes // 2:
            yield (
                f"max_chunk_bytes: {self.max_chunk_bytes} is more than half of max_message_bytes "
                f"({self.max_message_bytes}); lower the first or raise the second"
            )


@dataclass(frozen=True)
class Config(Settings):
    """A run. Raises ConfigError with every problem when it is made."""

    algorithm: str = "ppo"
    """Name in the registry of core/algorithms."""
    env: str = "CartPole-v1"
    """Gymnasium's id of the environment, package.module:factory, or a registered name."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for the environment's constructor."""
    env_wrappers: tuple[str, ...] = ()
    """Wrappers of each single environment, the innermost first: names of gymnasium's, or package.module:Class."""
    imports: tuple[str, ...] = ()
    """Modules of your own that every process imports by name: what they register can be used."""
    seed: int = bounded(1, low=0, high=(1 << 63) - 1)
    """All randomness of the run is derived from it."""
    env_steps: int = bounded(500_000, low=1)
    """Budget: the run ends when so many env steps have been learned from."""
    target_return: float | None = None
    """The run ends early when an evaluation's mean return reaches it; null: only the budget ends it."""
    actors: int = bounded(1, low=1, high=10_000)
    """Actor processes that the launcher starts; more may join at any time."""
    envs_per_actor: int = bounded(8, low=1, high=65_536)
    """Environments that one actor steps together."""
    policy_lag: Literal["auto", "async", 0, 1] = "auto"
    """Versions between the policy that acts and the one being trained; async: the newest; auto: the algorithm's."""
    replay: Literal["process", "embedded"] = "process"
    """Where a replay table lives: in a process of its own or in the learner's. Queues are always the learner's."""
    replay_data_dir: str | None = None
    """Folder where the replay process keeps its tables after the run; null: /dev/shm, while it lasts; memory: none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the learner computes on; auto: CUDA where there is one."""
    learner_threads: int = bounded(0, low=0, high=1024)
    """Threads of the learner's tensor arithmetic; 0: as many as the actors leave free."""
    run_dir: str | None = None
    """Where everything that the run leaves is written; null: runs/ALGORITHM-ENV-SEED-TIME."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The algorithm's own settings, not checked yet; in files and on the command line a section under its name."""

    def contradictions(self) -> Iterator[str]:
        """A name that cannot head a section, and an empty run directory."""
        if not self.algorithm.isidentifier() or self.algorithm in fields.names(Config):
            yield f"algorithm: must be a name that is no other setting's, not {self.algorithm!r}"
        if self.run_dir is not None and not self.run_dir.strip():
            yield "run_dir: must name a directory, or be null"
        if self.replay_data_dir is not None and not self.replay_data_dir.strip():
            yield "replay_data_dir: must name a folder, or be memory or null"
        if self.replay_data_dir is not None and self.replay == "embedded":
            yield (
                "replay_data_dir: an embedded table is in the learner's memory, only a replay process keeps files; "
                "set replay to process, or leave it out"
            )


def read(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    presets: Presets = PRESETS,
    algorithms: Collection[str] = (),
) -> tuple[Config | None, list[str]]:
    """The run's settings and every problem in them, as `fields.build` gives them.

    `flags` are dotted names and values; leave out what was not given. `sets` are texts NAME=VALUE, the value as YAML.
    `algorithms` are the names that may be chosen; empty: any.
    """
    problems: list[str] = []
    layers = [_from_file(file, problems), *_from_flags(flags or {}), *_from_sets(sets, problems)]
    chosen = merge(layers)
    algorithm, env = str(chosen.get("algorithm", Config.algorithm)), str(chosen.get("env", Config.env))
    if algorithms and algorithm not in algorithms:
        near = fields.nearest(algorithm, algorithms)
        problems.append(f"algorithm: there is no {algorithm!r}{near} There are {', '.join(sorted(algorithms))}.")
    others = {name for name, _ in presets}.union(algorithms) - {algorithm}
    config, more = _build(merge([find(presets, algorithm, env)[1], *layers]), algorithm, others)
    return config, problems + more


def to_plain(config: Config) -> dict[str, Any]:
    """Dicts, lists, numbers and text; the algorithm's own settings under its name, as in a file."""
    plain: dict[str, Any] = fields.plain(config)
    plain[config.algorithm] = plain.pop("settings")
    return plain


def from_plain(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_plain`: defaults below, no preset. Raises ConfigError with every problem."""
    config, problems = _build(plain, str(plain.get("algorithm", Config.algorithm)), ())
    ConfigError.raise_if(problems)
    if config is None:
        raise ConfigError("the settings cannot be used")
    return config


def to_yaml(config: Config) -> str:
    """The whole tree as a YAML file."""
    return yaml12.dump(to_plain(config))


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of all `layers`, later ones on top, section by section; an empty section changes nothing."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(below, Mapping) and (value is None or isinstance(value, Mapping)):
                value = merge([below, value or {}])
            merged[key] = value
    return merged


def _build(given: Mapping[str, Any], algorithm: str, others: Collection[str]) -> tuple[Config | None, list[str]]:
    own = given.get(algorithm)
    common = {key: value for key, value in given.items() if key not in {algorithm, *others}}
    problems = [
        f"{name}: this section is for another algorithm, and the run trains {algorithm}: "
        f"remove it, or write its settings as {algorithm}.NAME"
        for name in sorted(others & given.keys())
    ]
    if "settings" in common:
        problems.append(f"settings: no such setting; those of {algorithm} are written {algorithm}.NAME")
    config, more = fields.build(Config, {**common, "settings": own})
    return config, problems + [problem.replace("settings:", f"{algorithm}:", 1) for problem in more]


def _from_file(file: Path | None, problems: list[str]) -> Mapping[str, Any]:
    if file is None:
        return {}
    try:
        return _from_text(file.read_text(encoding="utf-8"), str(file), problems)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return {}


def _from_text(text: str, source: str, problems: list[str]) -> Mapping[str, Any]:
    try:
        given = yaml12.load(text)
    except yaml.YAMLError as error:
        problems.append(f"{source}: not YAML: {error}")
        return {}
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"{source}: must be names and values, not {given!r}")
        return {}
    return given or {}


def _from_flags(flags: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [_nested(name, value) for name, value in flags.items()]


def _from_sets(sets: Sequence[str], problems: list[str]) -> list[Mapping[str, Any]]:
    layers = []
    for text in sets:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            problems.append(f"--set {text}: must be NAME=VALUE, such as ppo.gamma=0.98")
            continue
        try:
            layers.append(_nested(name.strip(), yaml12.load(value)))
        except yaml.YAMLError as error:
            problems.append(f"--set {text}: the value is not YAML: {error}")
    return layers


def _nested(name: str, value: Any) -> Mapping[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return {str(key): item for key, item in value.items()}
