"""A table's folder as the replay server keeps it, small and written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from core import mapped
from core.types import Array
from replay_server.definition import ReplayDefinition
from tests.unit.counting import signature

EPOCH, CELLS = 5, 12


class Folder:
    """obs [cells, 1] and reward [cells] hold their position; `set` changes words of the header."""

    def __init__(self, path: Path, *, before: int = 1, after: int = 2, tail: int = 0, epoch: int = EPOCH) -> None:
        self.path = path
        path.mkdir()
        definition = ReplayDefinition("t", signature(4, 2), CELLS, 4, 1, 1, 0.0, before, after, 1)
        (path / "definition.json").write_text(json.dumps(definition.to_plain()))
        self.columns: dict[str, Array] = {
            "obs": np.arange(CELLS, dtype=np.int64)[:, None],
            "reward": np.arange(CELLS, dtype=np.int64),
            "valid": np.ones(CELLS, np.uint8),
        }
        for name, column in self.columns.items():
            column.tofile(path / f"column.{name}")
        np.zeros(16, np.int64).tofile(path / "header")
        self._header = np.memmap(path / "header", np.int64, "r+")
        self.set(tail=tail, epoch=epoch, cells=CELLS)

    def set(self, **words: int) -> None:
        """Store words of the header."""
        for name, word in words.items():
            self._header[getattr(mapped, name.upper())] = word
