"""A replay ring's files, read by reference: for a client on the replay server's host that is sent keys only.

The server writes them (replay_server/ring.py has the layout); here they are mapped read-only. What is read may be
overwritten meanwhile, and that is found out: the server moves the tail before it writes a cell of an evicted block
again, so a window whose key is not below the tail *after* it was copied is whole. Used by core/sampling.py and for
exports; one thread.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.errors import ReplayError
from core.specs import ColumnSpec, Signature
from core.types import Array, Columns

TAIL, LAYOUT_VERSION, CELLS, BEFORE, AFTER, EPOCH = range(6)
"""Words of the file `header` (int64) that a reader needs."""

ORDERED_STORES = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether one process sees the stores of another in their order. Elsewhere nothing is read by reference."""

UNSTORED = "priority"
"""A column that clients may insert and that is no column of the ring."""


class MappedRing:
    """The columns of one table, mapped from its folder."""

    def __init__(self, directory: str, epoch: int) -> None:
        """Raises ReplayError where the files cannot be read, or are not those of the table that the server means."""
        self.directory, self.epoch = Path(directory), epoch
        definition = self._read_definition()
        self.before, self.after = int(definition["before"]), int(definition["after"])
        self.signature = Signature.from_plain(definition["signature"])
        self._header = self._map("header", "int64", (-1,))
        if self._header_epoch() != epoch:
            raise ReplayError(f"{directory} holds epoch {self._header_epoch():x} of the table, not {epoch:x}")
        self.cells = int(self._header[CELLS])
        specs = {name: spec for name, spec in self.signature.columns.items() if name != UNSTORED}
        self.columns: dict[str, Array] = {
            name: self._map(f"column.{name}", spec.array.dtype, (self.cells, *spec.array.shape))
            for name, spec in specs.items()
        }
        self._window = np.arange(-self.before, self.after + 1)[:, None]
        self._rows = {name: self._window_rows(spec) for name, spec in specs.items()}

    @property
    def tail(self) -> int:
        """The oldest position that is not overwritten, now."""
        return int(self._header[TAIL])

    def gather(self, keys: NDArray[np.int64], out: Columns | None = None) -> dict[str, Array] | None:
        """The windows of `keys`, as the server's own gather gives them; None where one was overwritten meanwhile.

        Time-major, [before + after (+ 1 with an extra row), n, ...]; [n, ...] of columns whose window has its first row
        only. `out` may hold arrays of these shapes to fill.
        """
        windows = self._window + keys % self.cells
        columns = {}
        for name, store in self.columns.items():
            rows = self._rows[name]
            cells = windows[0] if rows is None else windows[:rows]
            columns[name] = np.take(store, cells, axis=0, out=None if out is None else out[name], mode="clip")
        return columns if self.holds(keys) else None

    def holds(self, keys: NDArray[np.int64]) -> bool:
        """Whether what was read of these keys until now is what was written there."""
        return not keys.size or (int(keys.min()) >= self.tail and self._header_epoch() == self.epoch)

    def map_words(self, name: str, words: int) -> NDArray[np.int64]:
        """Another file of the folder, as lines of so many int64 words."""
        return self._map(name, "int64", (-1, words))

    def _window_rows(self, spec: ColumnSpec) -> int | None:
        """Rows of a window; None: its first row, without an axis for it."""
        return None if spec.window_rows == "first" else self.before + self.after + bool(spec.extra_rows)

    def _header_epoch(self) -> int:
        return int(self._header[EPOCH])

    def _read_definition(self) -> dict[str, Any]:
        path = self.directory / "definition.json"
        try:
            definition: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReplayError(f"{path} cannot be read: {error}") from error
        return definition

    def _map(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> Array:
        path = self.directory / name
        try:
            words = np.memmap(path, dtype, "r")
            array: Array = np.asarray(words).reshape(shape)
        except (OSError, ValueError) as error:
            raise ReplayError(f"{path} cannot be mapped: {error}") from error
        return array
