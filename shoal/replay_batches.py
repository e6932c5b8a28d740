"""What a ReplayClient draws: batches, one after the other, some of them requested before they are needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, DeadlineError, RateLimitedError, ReplayError
from core.sampling import SampleStream
from core.types import Array
from shoal.replay_tables import whole

To = Literal["numpy", "torch"]


@dataclass(frozen=True)
class Batch:
    """Items and their windows: `batch["obs"]` is [window, n, ...], time-major. NumPy arrays are to be read only.

    `keys` [n] (NumPy) name the items for priorities. `probability` [n] is what each was drawn with (uniform tables:
    1 / items). `items` were in the table when the batch was drawn.
    """

    columns: Mapping[str, Any]
    keys: NDArray[np.int64]
    probability: NDArray[np.float64]
    items: int
    to: To = "numpy"

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.keys)

    def weights(self, exponent: float) -> Any:
        """Importance weights [n], float32: (items x probability)^-exponent over the largest of the batch.

        `exponent` is the beta of Schaul et al. 2016 (https://arxiv.org/abs/1511.05952), section 3.4: 1 corrects fully.
        """
        weights = ((self.probability / self.probability.min()) ** -exponent).astype(np.float32)
        return _torch(weights) if self.to == "torch" else weights


class Batches(Iterator[Batch]):
    """Batches without end, `prefetch` of them requested ahead. Made by `ReplayClient.batches`; close it, or use `with`.

    Every batch waits for at most `timeout_s`; after RateLimitedError the next call waits for the same batch again.
    """

    def __init__(
        self,
        stream: SampleStream,
        table: str,
        batch_size: int,
        prefetch: int,
        to: To,
        timeout_s: float,
        why: Callable[[], str],
        set_now: Callable[[Array, Array], object],
        on_close: Callable[[Batches], None],
    ) -> None:
        self._stream, self._table, self.batch_size, self.to = stream, table, batch_size, to
        self._ahead, self.timeout_s = max(0, prefetch), timeout_s
        self._why, self._set_now, self._on_close = why, set_now, on_close
        self._requested = 0
        self._priorities: list[tuple[Array, Array]] = []
        self._lock = threading.Lock()

    @property
    def by_reference(self) -> bool:
        """Whether windows are read from the table's files on this host; waits for the server's word."""
        _ = self._stream.opened
        return self._stream.by_reference

    def __next__(self) -> Batch:
        with self._lock:
            while self._requested < 1 + self._ahead:
                self._stream.request(1, self.batch_size, priorities=self._take_priorities())
                self._requested += 1
            return self._receive(time.monotonic() + self.timeout_s)

    def set_priorities(self, keys: Any, priorities: Any) -> None:
        """Set priorities [n] of items `keys` [n] with the next request. Keys of items that are gone are ignored."""
        with self._lock:
            self._priorities.append(checked_priorities(keys, priorities))

    def close(self) -> None:
        """End the stream and wake who waits. Priorities that no request took along are dropped."""
        self._stream.close()
        self._on_close(self)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; at an orderly end, with the last priorities set."""
        priorities = self._take_priorities()
        self.close()
        if kind is None and priorities is not None:
            self._set_now(*priorities)

    def _take_priorities(self) -> tuple[Array, Array] | None:
        pending, self._priorities = self._priorities, []
        if not pending:
            return None
        keys, priorities = zip(*pending, strict=True)
        return np.concatenate(keys), np.concatenate(priorities)

    def _receive(self, end_s: float) -> Batch:
        reason = ""
        while True:
            try:
                reply = self._stream.receive(max(0.0, end_s - time.monotonic()))
            except DeadlineError as error:
                reason = reason or self._why()
                raise RateLimitedError(
                    f"table {self._table!r} gave no batch for {self.timeout_s:g} s: {reason or error}"
                ) from error
            if reply.keys is None or reply.columns is None:
                reason = reply.reason or reason
                continue
            self._requested -= 1
            probability = reply.probability
            if probability is None:
                probability = np.full(len(reply.keys), 1.0 / max(1, reply.items))
            columns = reply.columns
            if self.to == "torch":
                columns = {name: _torch(column) for name, column in columns.items()}
            return Batch(columns, reply.keys, probability, reply.items, self.to)


def checked_size(batch_size: Any, to: str) -> int:
    """The size as an int. Raises ConfigError where it is none, and for what batches cannot be turned into."""
    if to not in ("numpy", "torch"):
        raise ConfigError(f"batches to {to!r}: choose 'numpy' or 'torch'")
    return whole("batch_size", batch_size, 0, (1 << 32) - 1)


def checked_priorities(keys: Any, priorities: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Arrays or tensors as the wire has them. Raises ReplayError where the server would refuse them."""
    k, p = np.asarray(_numpy(keys)), np.asarray(_numpy(priorities), np.float32)
    if k.size and k.dtype.kind not in "iu":
        raise ReplayError(f"keys are {k.dtype}, which may be others' once they are rounded: give batch.keys, int64")
    k = k.astype(np.int64, copy=False)
    if k.ndim != 1 or k.shape != p.shape:
        raise ReplayError(f"{list(k.shape)} keys and {list(p.shape)} priorities: give as many of both, along one axis")
    wrong = ~(np.isfinite(p) & (p >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ReplayError(f"priority {p[at]} of key {k[at]}: priorities are finite and not negative")
    return k, p


def _numpy(array: Any) -> Any:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array


def _torch(array: Array) -> Any:
    """A tensor of the same memory, or of a copy where that may not be written (torch has no read-only tensors)."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())
