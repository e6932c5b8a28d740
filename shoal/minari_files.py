"""Minari datasets: a table's rows as episodes, and episodes as a table's rows. Called by shoal/replay_client.py.

Needs minari and h5py (pip install 'shoal[datasets]'), which are imported when they are first used. A dataset has an
episode's `observations` [T + 1, ...], `actions`, `rewards`, `terminations` and `truncations` [T]; other columns go
into its `infos` under their names, and come from there. Dict spaces are columns `obs.<name>` and `action.<name>`.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.datasets import minari as _minari
from core.errors import ConfigError, ReplayError, SchemaError
from core.mapped import MappedRing
from core.types import Array
from shoal.replay_tables import ADDED, PRIORITY
from shoal.replay_writer import Writer
from shoal.table_reading import Piece, episodes, strands

CHUNK_STEPS = 100_000
"""Rows that are handed to Minari at once."""
OWN = ("obs", "action", "reward")


@dataclass(frozen=True)
class Exported:
    """A dataset that was written.

    `truncated` episodes did not terminate: cut off by a limit, or `incomplete`, which were still going on, or had lost
    their first rows to newer ones.
    """

    dataset_id: str
    episodes: int
    steps: int
    truncated: int
    incomplete: int


@dataclass(frozen=True)
class Loaded:
    """What was inserted."""

    dataset_id: str
    episodes: int
    steps: int


# ---------------------------------------------------------------------------------------------------- export


def export(
    directory: str,
    epoch: int,
    dataset_id: str,
    *,
    env: str | None = None,
    observation_space: Any = None,
    action_space: Any = None,
    **metadata: Any,
) -> Exported:
    """Write the table in `directory` as the new dataset `dataset_id`, such as "cartpole/dqn-v0".

    The spaces are those of `env`, or as the columns have it: unbounded boxes, and Discrete for whole-numbered actions.
    `metadata` goes to minari.create_dataset_from_buffers (author, description, algorithm_name, ...).
    """
    minari = _minari()
    ring = MappedRing(directory, epoch)
    missing = [name for name in OWN if not any(c == name or c.startswith(f"{name}.") for c in ring.columns)]
    if missing:
        raise ReplayError(
            f"{directory} has no columns {missing}, which an episode needs; it has {sorted(ring.columns)}"
        )
    spaces = {
        "observation_space": observation_space or (None if env else _space(ring, "obs")),
        "action_space": action_space or (None if env else _space(ring, "action")),
    }
    counts = {"episodes": 0, "steps": 0, "truncated": 0, "incomplete": 0}
    dataset = None
    with whole_or_nothing(dataset_id):
        for chunk in _chunks(piece for strand in strands(ring) for piece in episodes(strand)):
            buffers = [_buffer(piece) for piece in chunk]
            if dataset is None:
                dataset = minari.create_dataset_from_buffers(
                    dataset_id, buffers, env=env, jpeg_encoding=False, **spaces, **metadata
                )
            else:
                dataset.update_dataset_from_buffer(buffers)
            counts["episodes"] += len(chunk)
            counts["steps"] += sum(map(len, chunk))
            counts["truncated"] += sum(not piece.terminated for piece in chunk)
            counts["incomplete"] += sum(not piece.complete for piece in chunk)
        if dataset is None:
            raise ReplayError(f"the table in {directory} holds no rows: nothing was written")
    return Exported(dataset_id, **counts)


def _chunks(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    chunk: list[Piece] = []
    steps = 0
    for piece in pieces:
        chunk.append(piece)
        steps += len(piece)
        if steps >= CHUNK_STEPS:
            yield chunk
            chunk, steps = [], 0
    if chunk:
        yield chunk


def _buffer(piece: Piece) -> Any:
    columns, last = piece.columns, np.zeros(len(piece), bool)
    last[-1] = True
    others = {n: c for n, c in columns.items() if n.partition(".")[0] not in OWN and n not in ADDED}
    return importlib.import_module("minari.data_collector").EpisodeBuffer(
        observations=_nested(columns, "obs"),
        actions=_nested(columns, "action"),
        rewards=columns["reward"],
        terminations=last & piece.terminated,
        truncations=last & (not piece.terminated),
        infos=others or None,
    )


def _nested(columns: Mapping[str, Array], name: str) -> Any:
    """A column, or those named name.<key> as a dict."""
    if name in columns:
        return columns[name]
    return {key.partition(".")[2]: column for key, column in columns.items() if key.startswith(f"{name}.")}


def _space(ring: MappedRing, name: str) -> Any:
    from gymnasium import spaces

    found = _nested(ring.columns, name)
    if isinstance(found, dict):
        return spaces.Dict({key: _leaf_space(store, discrete=False) for key, store in found.items()})
    return _leaf_space(found, discrete=name == "action")


def _leaf_space(store: Array, discrete: bool) -> Any:
    from gymnasium import spaces

    dtype, shape = store.dtype, store.shape[1:]
    if np.issubdtype(dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    if discrete and not shape:
        start = min(0, int(store.min()))
        return spaces.Discrete(int(store.max()) - start + 1, start=start)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(*limits, shape, dtype.type)


# ---------------------------------------------------------------------------------------------------- load


def open_dataset(dataset_id: str) -> Any:
    """The dataset of that name on this machine. Raises ConfigError."""
    minari = _minari()
    try:
        return minari.load_dataset(dataset_id)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(
            f"there is no Minari dataset {dataset_id!r} on this machine ({error}): `minari download {dataset_id}`"
        ) from error


def table_of(dataset: Any, **settings: Any) -> dict[str, Any]:
    """Settings of create_table for a table that holds all of a dataset but its infos, which may be anything."""
    episode = dataset[0]
    columns = _columns(episode, {})
    rows = dataset.total_steps + dataset.total_episodes + 1
    window = settings.get("before") or settings.get("stack") or 0
    window += settings.get("after") or settings.get("n_step") or 1
    capacity = int(1.25 * rows) + 8 * (256 + window + settings.get("max_rows", 64)) + settings.get("min_size", 1)
    return {
        "columns": {name: (column.dtype, column.shape[1:]) for name, column in columns.items()},
        "capacity": capacity,
    }


def load(dataset: Any, writer: Writer) -> Loaded:
    """Insert every episode, and the rows that the last windows need."""
    episodes = steps = 0
    for episode in dataset.iterate_episodes():
        writer.insert_episode(_wanted(_columns(episode, episode.infos or {}), writer))
        episodes, steps = episodes + 1, steps + len(episode)
    writer.end_episode()
    return Loaded(dataset.id, episodes, steps)


def _columns(episode: Any, infos: Mapping[str, Any]) -> dict[str, Array]:
    """All that an episode has: columns [T, ...], obs [T + 1, ...]."""
    steps = len(episode)
    columns = dict(_flat("obs", episode.observations)) | dict(_flat("action", episode.actions))
    columns["reward"] = np.asarray(episode.rewards)
    columns["discount"] = 1.0 - np.asarray(episode.terminations, np.float32)
    for name, column in _flat("", infos):
        if isinstance(column, np.ndarray) and len(column) >= steps and name not in columns:
            columns[name] = column[:steps]
    return columns


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), below)
    elif isinstance(value, tuple):
        for index, below in enumerate(value):
            yield from _flat(f"{name}.{index}", below)
    else:
        yield name, value


def _wanted(columns: dict[str, Array], writer: Writer) -> dict[str, Array]:
    """The columns that the table has. Raises SchemaError where one is missing."""
    specs = writer.definition.signature.columns
    missing = sorted(specs.keys() - columns.keys() - {*ADDED, PRIORITY})
    if missing:
        raise SchemaError(f"the dataset has no columns {missing}, which the table wants; it has {sorted(columns)}")
    return {name: columns[name] for name in specs if name in columns}


# ---------------------------------------------------------------------------------------------------- minari


@contextlib.contextmanager
def whole_or_nothing(dataset_id: str) -> Iterator[None]:
    """Turns what Minari refuses into ConfigError, keeps its advice on metadata quiet, leaves no half of a dataset."""
    paths = importlib.import_module("minari.storage.datasets_root_dir")
    try:
        importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id(dataset_id)
        folder = paths.get_dataset_path(dataset_id)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{dataset_id!r} is no name for a Minari dataset, such as 'cartpole/dqn-v0': {error}"
        ) from error
    if folder.exists():
        raise ConfigError(f"there is a Minari dataset {dataset_id!r} at {folder}: choose another name or version")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ValueError | TypeError):
            raise ConfigError(f"Minari refuses to write {dataset_id!r}: {error}") from error
        raise
