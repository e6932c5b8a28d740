"""core/mapped.py: a ring's files by reference, windows as the server gives them, and what was overwritten meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import ReplayError
from core.mapped import MappedRing
from tests.unit.mapping import CELLS, EPOCH, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "table")


def opened(folder: Folder) -> MappedRing:
    return MappedRing(str(folder.path), EPOCH)


def test_windows_are_time_major_and_of_the_cells_around_a_key(folder: Folder) -> None:
    columns = opened(folder).gather(np.array([1, 4, CELLS + 7]))
    assert columns is not None
    assert columns["obs"].shape == (4, 3, 1)
    assert columns["obs"][..., 0].T.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert columns["reward"].T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert columns["valid"].dtype == np.uint8


def test_given_arrays_are_filled(folder: Folder) -> None:
    ring = opened(folder)
    keys = np.array([1, 2])
    first = ring.gather(keys)
    assert first is not None
    out = {name: np.empty_like(column) for name, column in first.items()}
    filled = ring.gather(keys, out)
    assert filled is not None
    for name, column in filled.items():
        assert column is out[name]
        np.testing.assert_array_equal(column, first[name])


def test_what_the_tail_has_passed_is_torn(folder: Folder) -> None:
    ring = opened(folder)
    folder.set(tail=4)
    assert ring.tail == 4
    assert ring.gather(np.array([4, 5])) is not None
    assert ring.gather(np.array([5, 3])) is None
    assert ring.gather(np.array([], np.int64)) is not None


def test_a_table_that_went_back_is_torn(folder: Folder) -> None:
    ring = opened(folder)
    folder.set(epoch=EPOCH + 1)
    assert ring.gather(np.array([4])) is None


def test_files_of_another_epoch_are_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "table", epoch=EPOCH + 1)
    with pytest.raises(ReplayError, match="holds epoch 6 of the table, not 5"):
        opened(folder)


@pytest.mark.parametrize("name", ["definition.json", "header", "column.obs"])
def test_a_missing_file_is_named(folder: Folder, name: str) -> None:
    (folder.path / name).unlink()
    with pytest.raises(ReplayError, match=name.replace(".", r"\.")):
        opened(folder)


@pytest.mark.parametrize("name", ["definition.json", "column.reward"])
def test_a_file_that_is_cut_short_is_named(folder: Folder, name: str) -> None:
    content = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ReplayError, match=name.replace(".", r"\.")):
        opened(folder)


def test_files_are_mapped_for_reading_only(folder: Folder) -> None:
    ring = opened(folder)
    assert not any(column.flags.writeable for column in ring.columns.values())
