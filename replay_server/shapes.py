"""What one unroll's columns must look like: checked once, here, before a table touches them. Pure."""

from __future__ import annotations

import numpy as np

from core.errors import SchemaError
from core.specs import Signature
from core.types import Columns


class Shapes:
    """A signature, prepared for checking unrolls (about a microsecond a column)."""

    def __init__(self, signature: Signature) -> None:
        self.max_rows = signature.max_rows
        self.max_envs = signature.max_envs
        self.columns = {
            name: (spec.extra_rows, spec.array.shape, np.dtype(spec.array.dtype))
            for name, spec in signature.columns.items()
        }

    def size(self, columns: Columns) -> tuple[int, int]:
        """(rows, envs) of an unroll. SchemaError when columns are missing, unknown, disagree or are too large."""
        if columns.keys() != self.columns.keys():
            missing = sorted(self.columns.keys() - columns.keys())
            unknown = sorted(columns.keys() - self.columns.keys())
            raise SchemaError(
                f"the unroll has the wrong columns: missing {missing}, unknown {unknown}; "
                f"the table's signature has {sorted(self.columns)}"
            )
        rows = envs = -1
        for name, (extra, shape, dtype) in self.columns.items():
            array = columns[name]
            if array.dtype != dtype or array.ndim != 2 + len(shape) or array.shape[2:] != shape:
                raise SchemaError(
                    f"column {name!r} is {array.dtype}{list(array.shape)}, "
                    f"its signature is {dtype}[rows + {extra}, envs, *{list(shape)}]"
                )
            if rows < 0:
                rows, envs = array.shape[0] - extra, array.shape[1]
            elif array.shape[0] != rows + extra or array.shape[1] != envs:
                raise SchemaError(
                    f"column {name!r} has {array.shape[0] - extra} rows of {array.shape[1]} environments, "
                    f"other columns of the unroll {rows} rows of {envs}"
                )
        if not (1 <= rows <= self.max_rows and 1 <= envs <= self.max_envs):
            raise SchemaError(
                f"the unroll has {rows} rows of {envs} environments, the table takes 1 to {self.max_rows} rows "
                f"of 1 to {self.max_envs} environments"
            )
        return rows, envs
