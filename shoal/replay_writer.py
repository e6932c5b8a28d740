"""Inserts of a ReplayClient: checks columns, fills in what may be left out, cuts long ones. One thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from core import wire
from core.errors import DeadlineError, RateLimitedError, SchemaError, TooLargeError
from core.stream import InsertStream
from core.types import Array, UnrollHeader
from replay_server.definition import ReplayDefinition
from replay_server.settings import check_priorities
from shoal.replay_tables import ADDED, PRIORITY

DEFAULTS = {name: 1.0 for name in ADDED} | {PRIORITY: np.inf}


class Writer:
    """One sequence of experience: what is inserted goes on where the last insert ended. Made by `ReplayClient.writer`.

    NEXT_STEP rows: the row below a row is what was observed after it. At the end of an episode insert the row on which
    the environment resets with `valid` 0, or use `insert_episode`, which does that. Leaving the context waits until
    all is acknowledged and ends the sequence.
    """

    def __init__(
        self,
        stream: InsertStream,
        definition: ReplayDefinition,
        slot: int,
        timeout_s: float,
        why: Callable[[], str],
        on_close: Callable[[Writer], None],
    ) -> None:
        self._stream, self._timeout_s = stream, timeout_s
        self.definition = definition
        """Of the table."""
        self.slot = slot
        """This writer's place: no other writer of the table may have it at the same time."""
        self._why, self._on_close = why, on_close
        self._last_obs: dict[str, Array] = {}
        self._envs = 0  # of the rows inserted so far
        self._any_size = dataclasses.replace(definition.signature, max_rows=1 << 31, max_envs=1 << 31)

    @property
    def unacknowledged(self) -> int:
        """Unrolls sent that are not in the table yet, as far as is known here."""
        return self._stream.unacknowledged

    @property
    def lost_rows(self) -> int:
        """Rows that were acknowledged and are gone: the server lost its memory, or was rolled back."""
        return self._stream.lost_rows

    def insert(self, columns: Mapping[str, Any], *, timeout_s: float | None = None) -> float:
        """Insert columns [T, B, ...]; `obs` and `obs.<name>` have T + 1 rows, their first one is the last one's last.

        `valid`, `discount` (ones) and `priority` (the largest so far) may be left out. Returns the seconds waited.
        Raises SchemaError or TooLargeError, with nothing sent, for columns that do not fit; RateLimitedError, with the
        server's reason, where the table takes nothing for `timeout_s`: of a long insert that was cut, a part may have
        been sent.
        """
        whole = self._complete({name: _array(name, column) for name, column in columns.items()})
        signature = self.definition.signature
        rows, envs = self._check(whole)
        waited_s = 0.0
        for start in range(0, rows, signature.max_rows):
            end = min(rows, start + signature.max_rows)
            part = {name: column[start : end + signature.columns[name].extra_rows] for name, column in whole.items()}
            header = UnrollHeader(self.slot, 0, 0, int(np.count_nonzero(part["valid"])))
            waited_s += self._insert(header, part, self._timeout_s if timeout_s is None else timeout_s)
        self._last_obs = {n: column[-1:].copy() for n, column in whole.items() if signature.columns[n].extra_rows}
        self._envs = envs
        return waited_s

    def insert_episode(self, columns: Mapping[str, Any], *, timeout_s: float | None = None) -> float:
        """Insert one whole episode of one environment: columns [T, ...], `obs` [T + 1, ...], without the axis B."""
        whole = self._complete({name: _array(name, column)[:, None] for name, column in columns.items()})
        self._check(whole)
        if self._envs:  # the row on which the environment resets
            first = {name: self._last_obs.get(name, np.zeros_like(column[:1])) for name, column in whole.items()}
            whole = {name: np.concatenate((first[name], column)) for name, column in whole.items()}
        return self.insert(whole, timeout_s=timeout_s)

    def end_episode(self, *, timeout_s: float | None = None) -> float:
        """Insert the rows below the last one, as no steps: it is over, and its last rows become items.

        Needed after the very last episode only: windows of n rows reach into the rows below an item's.
        """
        if not self._envs:
            return 0.0
        specs, rows = self.definition.signature.columns, max(1, self.definition.after - 1)
        columns = {
            name: np.zeros((rows, self._envs, *spec.array.shape), spec.array.dtype) for name, spec in specs.items()
        }
        columns |= {name: np.repeat(last, rows + 1, axis=0) for name, last in self._last_obs.items()}
        return self.insert(columns, timeout_s=timeout_s)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything is acknowledged: it is in the table. Raises RateLimitedError with the reason."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            self._stream.flush(timeout_s)
        except DeadlineError as error:
            raise self._limited(error, timeout_s) from error

    def close(self) -> None:
        """Wait until everything is acknowledged, and end the sequence."""
        try:
            self.flush()
        finally:
            self._stream.close()
            self._on_close(self)

    def cancel(self) -> None:
        """End at once, and wake who waits; what is not acknowledged may or may not be in the table."""
        self._stream.cancel()
        self._on_close(self)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.cancel()

    def _insert(self, header: UnrollHeader, columns: dict[str, Array], timeout_s: float) -> float:
        try:
            return self._stream.insert(header, columns, timeout_s)
        except DeadlineError as error:
            raise self._limited(error, timeout_s) from error

    def _limited(self, error: DeadlineError, timeout_s: float) -> RateLimitedError:
        name = self.definition.name
        return RateLimitedError(f"table {name!r} took nothing more for {timeout_s:g} s: {self._why() or error}")

    def _complete(self, columns: dict[str, Array]) -> dict[str, Array]:
        """With the columns that may be left out, in the table's dtypes where that loses precision only.

        Raises SchemaError.
        """
        specs = self.definition.signature.columns
        missing = [name for name in specs if name not in columns and name in DEFAULTS]
        sized = [c.shape[:2] for name, c in columns.items() if name in specs and not specs[name].extra_rows]
        if missing and sized and len(sized[0]) == 2:
            for name in missing:
                columns[name] = np.full(sized[0], DEFAULTS[name], specs[name].array.dtype)
        elif missing:
            raise SchemaError(
                f"columns {sorted(columns)} do not say how many rows there are: give {missing[0]!r} too, or insert a "
                "whole episode by insert_episode, if the axis B is what is missing"
            )
        return {n: _fitted(n, c, np.dtype(specs[n].array.dtype)) if n in specs else c for n, c in columns.items()}

    def _check(self, whole: dict[str, Array]) -> tuple[int, int]:
        """(T, B). Raises SchemaError or TooLargeError where the server would refuse the columns."""
        specs, rows = self.definition.signature.columns, len(whole["valid"])
        for name, column in whole.items():
            if name in specs and specs[name].extra_rows and len(column) == rows:
                raise SchemaError(
                    f"column {name!r} has {rows} rows, as many as the others: give one more, what was observed last"
                )
        rows, envs = wire.check(whole, self._any_size)
        most = self.definition.signature.max_envs
        if envs > most:
            raise TooLargeError(
                f"the columns have {envs} environments, table {self.definition.name!r} takes 1 to {most} environments: "
                f"insert fewer, or make a table with max_envs={envs}"
            )
        check_priorities(whole)
        return rows, envs


def _array(name: str, column: Any) -> Array:
    """Numpy's view of an array, a tensor or a list of numbers. Raises SchemaError for what has no rows."""
    try:
        array = column if isinstance(column, np.ndarray) else np.asarray(column)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"column {name!r} is no array: {error}") from error
    if array.ndim == 0:
        raise SchemaError(f"column {name!r} is {column!r}: give an array with an element for each row")
    return array


def _fitted(name: str, column: Array, dtype: np.dtype[Any]) -> Array:
    """The column in that dtype: floats as floats, whole numbers where they fit. Else as it is: `check` refuses it."""
    if column.dtype == dtype or not (np.can_cast(column.dtype, dtype, "same_kind") or _whole(column.dtype, dtype)):
        return column
    fitted = column.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(fitted, column):
        raise SchemaError(f"column {name!r} goes from {column.min()} to {column.max()}, which is no {dtype}")
    return fitted


def _whole(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return given.kind in "biu" and wanted.kind in "iu"
