"""shoal/minari_files.py: datasets to tables and back; ends, truncations and last observations survive."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError, ReplayError, SchemaError
from core.mapped import MappedRing
from core.types import Array, UnrollHeader
from replay_server.definition import ReplayDefinition
from replay_server.layout import fit_ring
from replay_server.ring import Ring
from replay_server.storage import FileAllocator
from shoal.minari_files import Exported, export, load, open_dataset, table_of
from shoal.replay_tables import definition
from shoal.replay_writer import Writer
from shoal.table_reading import strands

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
COLUMNS = {"obs": ("float32", (2,)), "action": "int64", "reward": "float32", "mood": "uint8"}


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


class Table:
    """A ring in files, as a server keeps it, and writers that insert into it at once."""

    def __init__(self, folder: Path, wanted: ReplayDefinition) -> None:
        self.folder, self.definition, self._seqs = folder, wanted, dict[int, int]()
        layout = fit_ring(wanted.signature, wanted.capacity, before=wanted.before, after=wanted.after)
        self.ring = Ring(wanted.signature, layout, FileAllocator(folder), 16)
        (folder / "definition.json").write_text(json.dumps(wanted.to_plain()))

    def insert(self, header: UnrollHeader, columns: dict[str, Array], timeout_s: float | None) -> float:
        rows, envs = columns["valid"].shape
        seq = self._seqs[header.slot] = self._seqs.get(header.slot, 0) + 1
        self.ring.insert(header.slot, 1, seq, columns, rows, envs)
        return 0.0

    def writer(self, slot: int = 0) -> Writer:
        stream: Any = self
        return Writer(stream, self.definition, slot, 1.0, lambda: "", lambda writer: None)

    def export(self, dataset_id: str, **settings: Any) -> Exported:
        return export(str(self.folder), self.ring.files.epoch, dataset_id, **settings)


MakeTable = Callable[..., Table]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    def make(columns: dict[str, Any] = COLUMNS, **settings: Any) -> Table:
        return Table(tmp_path / "table", definition("t", columns, **{"capacity": 5000, **settings}))

    return make


def episode(number: int, steps: int, terminated: bool) -> dict[str, Array]:
    """obs (number, row), action row, reward row / 2, mood number."""
    row = np.arange(steps + 1)
    discount = np.ones(steps, np.float32)
    discount[-1] = not terminated
    return {
        "obs": np.stack((np.full(steps + 1, number), row), -1).astype(np.float32),
        "action": row[:-1] % 3,
        "reward": (row[:-1] / 2).astype(np.float32),
        "mood": np.full(steps, number, np.uint8),
        "discount": discount,
    }


def assert_is(found: Any, number: int, steps: int, terminated: bool) -> None:
    wanted = episode(number, steps, terminated)
    assert len(found) == steps
    np.testing.assert_array_equal(found.observations, wanted["obs"])
    np.testing.assert_array_equal(found.actions, wanted["action"])
    np.testing.assert_array_equal(found.rewards, wanted["reward"])
    np.testing.assert_array_equal(found.infos["mood"], wanted["mood"])
    last = np.arange(steps) == steps - 1
    np.testing.assert_array_equal(found.terminations, last & terminated)
    np.testing.assert_array_equal(found.truncations, last & (not terminated))


EPISODES = [(1, 5, True), (2, 300, False), (3, 1, True), (4, 1, False), (5, 700, True), (6, 40, False)]


@pytest.mark.parametrize("window", [{}, {"stack": 3, "n_step": 4}], ids=["steps", "windows"])
def test_a_round_trip_keeps_ends_truncations_and_last_observations(make_table: MakeTable, window: Any) -> None:
    table = make_table(**window)
    writer = table.writer()
    for one in EPISODES:
        writer.insert_episode(episode(*one))
    writer.end_episode()
    steps = sum(steps for _, steps, _ in EPISODES)
    assert table.export("shoal/first-v0", author="me") == Exported("shoal/first-v0", 6, steps, 3, 0)

    dataset = minari.load_dataset("shoal/first-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (6, steps)
    assert dataset.storage.metadata["author"] == {"me"}
    assert dataset.spec.action_space.n == 3
    for found, one in zip(dataset.iterate_episodes(), EPISODES, strict=True):
        assert_is(found, *one)

    settings = {**table_of(dataset, **window), **window, "columns": COLUMNS}  # by default, without what infos hold
    again = Table(table.folder.parent / "again", definition("again", **settings))
    loaded = load(dataset, again.writer())
    assert (loaded.episodes, loaded.steps) == (6, steps)
    assert again.ring.items == table.ring.items
    assert again.export("shoal/second-v0").episodes == 6
    for found, one in zip(minari.load_dataset("shoal/second-v0").iterate_episodes(), EPISODES, strict=True):
        assert_is(found, *one)


def test_environments_and_writers_are_told_apart(make_table: MakeTable) -> None:
    table = make_table(max_envs=2)
    pair = [{n: c[:, None] for n, c in episode(number, 8, False).items()} for number in (1, 2)]
    both = {name: np.concatenate([one[name] for one in pair], axis=1) for name in pair[0]}
    table.writer(0).insert({name: column[: 4 + (name == "obs")] for name, column in both.items()})
    other = table.writer(1)
    other.insert_episode(episode(3, 6, True))
    exported = table.export("shoal/three-v0")
    assert (exported.episodes, exported.steps, exported.truncated, exported.incomplete) == (3, 14, 2, 2)
    found = list(minari.load_dataset("shoal/three-v0").iterate_episodes())
    assert [(int(e.observations[0, 0]), len(e), bool(e.terminations[-1])) for e in found] == [
        (1, 4, False),
        (2, 4, False),
        (3, 6, True),
    ]


def test_what_was_overwritten_is_left_out_and_said(make_table: MakeTable) -> None:
    table = make_table(capacity=1500)
    writer = table.writer()
    for number in range(4):
        writer.insert_episode(episode(number, 900, number % 2 == 0))
    writer.end_episode()
    exported = table.export("shoal/late-v0")
    found = list(minari.load_dataset("shoal/late-v0").iterate_episodes())
    assert (exported.episodes, exported.incomplete) == (len(found), 1)
    assert 700 < exported.steps <= 1500
    assert_is(found[-1], 3, 900, False)
    first = found[0].observations[:, 1]
    np.testing.assert_array_equal(first, first[0] + np.arange(len(first)))
    assert first[0] > 0


def test_dicts_of_observations_and_actions(make_table: MakeTable) -> None:
    columns = {"obs.image": ("uint8", (2, 2)), "obs.speed": "float32", "action.turn": "float32", "reward": "float32"}
    table = make_table(columns)
    inserted = {
        "obs.image": np.arange(16, dtype=np.uint8).reshape(4, 2, 2),
        "obs.speed": np.arange(4, dtype=np.float32),
        "action.turn": np.arange(3, dtype=np.float32),
        "reward": np.ones(3, np.float32),
    }
    table.writer().insert_episode(inserted)
    assert table.export("shoal/dict-v0").steps == 3
    dataset = minari.load_dataset("shoal/dict-v0")
    (found,) = dataset.iterate_episodes()
    np.testing.assert_array_equal(found.observations["image"], inserted["obs.image"])
    np.testing.assert_array_equal(found.observations["speed"], inserted["obs.speed"])
    np.testing.assert_array_equal(found.actions["turn"], inserted["action.turn"])
    assert table_of(dataset)["columns"].keys() == {*columns, "discount"}


def test_nothing_is_written_over_or_left_half_done(make_table: MakeTable, datasets: Path) -> None:
    table = make_table()
    with pytest.raises(ReplayError, match="holds no rows: nothing was written"):
        table.export("shoal/empty-v0")
    assert not (datasets / "shoal" / "empty-v0").exists()
    table.writer().insert_episode(episode(1, 5, True))
    with pytest.raises(ConfigError, match="is no name for a Minari dataset"):
        table.export("../up")
    with pytest.raises(ConfigError, match="Minari refuses to write"):
        table.export("shoal/odd-v0", no_such_field=object())
    assert not (datasets / "shoal" / "odd-v0").exists()
    table.export("shoal/one-v0")
    with pytest.raises(ConfigError, match=r"there is a Minari dataset 'shoal/one-v0' .* choose another"):
        table.export("shoal/one-v0")
    assert_is(minari.load_dataset("shoal/one-v0")[0], 1, 5, True)


def test_columns_that_are_missing_are_named(make_table: MakeTable) -> None:
    table = make_table({"obs": "float32", "action": "float32"})
    with pytest.raises(ReplayError, match=r"has no columns \['reward'\]"):
        table.export("shoal/none-v0")


def test_a_dataset_that_does_not_fit_the_table_is_refused(make_table: MakeTable) -> None:
    table = make_table()
    table.writer().insert_episode(episode(1, 5, True))
    table.export("shoal/one-v0")
    dataset = open_dataset("shoal/one-v0")
    wider = definition("w", COLUMNS | {"speed": "float32"}, capacity=5000)
    with pytest.raises(SchemaError, match=r"no columns \['speed'\], which the table wants"):
        load(dataset, Table(table.folder.parent / "wider", wider).writer())
    shape = definition("s", COLUMNS | {"obs": ("float32", (3,))}, capacity=5000)
    with pytest.raises(SchemaError, match="column 'obs'"):
        load(dataset, Table(table.folder.parent / "shape", shape).writer())
    with pytest.raises(ConfigError, match="no Minari dataset 'shoal/two-v0' on this machine"):
        open_dataset("shoal/two-v0")


def test_without_minari_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'shoal\[datasets\]'"):
        open_dataset("shoal/one-v0")


def test_a_table_that_is_rolled_back_while_it_is_read_is_not_read_on(make_table: MakeTable) -> None:
    table = make_table()
    for slot in (0, 1):
        table.writer(slot).insert_episode(episode(slot, 50, True))
    begun, to_begin = (strands(MappedRing(str(table.folder), table.ring.files.epoch)) for _ in range(2))
    assert len(next(begun).columns["valid"]) == 50
    table.ring.files.renew_epoch()  # what a rollback does first; the tail stays where it is, or goes back
    for reading in (begun, to_begin):
        with pytest.raises(ReplayError, match="was rolled back while it was read: read it again"):
            next(reading)


def test_rows_that_are_overwritten_while_others_are_read_are_left_out(make_table: MakeTable) -> None:
    table = make_table(capacity=1500)
    writers = [table.writer(slot) for slot in (0, 1)]
    for slot, writer in enumerate(writers):
        writer.insert_episode(episode(slot, 500, True))
    reading = strands(MappedRing(str(table.folder), table.ring.files.epoch))
    assert set(next(reading).columns["mood"].tolist()) == {0}
    writers[0].insert_episode(episode(2, 900, True))  # over the first half of what slot 1 has
    (rest,) = reading
    row = rest.columns["obs"][:-1, 1]
    assert not rest.begins
    assert 0 < len(row) < 500
    np.testing.assert_array_equal(rest.columns["obs"][:, 0], 1)
    np.testing.assert_array_equal(row, np.arange(500 - len(row), 500))
