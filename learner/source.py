"""Where batches come from: the learner's own queue, or a replay table. One thread fetches and copies to the device.

The training thread takes deliveries; the fetching thread works ahead by at most one. Both kinds give the same thing,
so the training loop knows neither.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from core.types import Array, Columns, UnrollHeader
from learner.background import LoopThread
from learner.coordinator import Coordinator


@dataclass
class Delivery:
    """What the loop trains on: a batch on the device, or none (no update is due, or only news), and headers.

    `keys` [n] are those of the batch's items in a replay table, `dropped` the headers of unrolls that were too stale.
    """

    batch: dict[str, torch.Tensor] | None
    headers: Sequence[UnrollHeader]
    is_round: bool = True
    limiter_wait_s: float = 0.0
    keys: Array | None = None
    dropped: Sequence[UnrollHeader] = ()


class Fetch(Protocol):
    """Gets the next delivery's columns, blocking; None when there will be no more."""

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next one."""
        ...

    def set_priorities(self, keys: Array, priorities: Array) -> None:
        """New priorities [n] of a delivery's items; called by the training thread."""
        ...


class Source:
    """Runs a fetch in a thread, one delivery ahead."""

    def __init__(self, fetch: Fetch, device: torch.device) -> None:
        self._fetch, self._device = fetch, device
        self._ready: queue.SimpleQueue[Delivery | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> Delivery | None:
        """The next delivery; None after `timeout_s`, after `wake` or after the end."""
        try:
            got = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if got is None:
            return None
        self._room.release()
        if isinstance(got, BaseException):
            raise got
        return got

    def set_priorities(self, keys: Array, priorities: Array) -> None:
        """New priorities [n] of the items of a delivery, for the next draw."""
        self._fetch.set_priorities(keys, priorities)

    def wake(self) -> None:
        """Let `next` return at once; safe in a signal handler."""
        self._ready.put(None)

    def close(self) -> None:
        """Stop fetching; whoever feeds the fetch must be closed first."""
        self._closed = True
        self._room.release()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            while True:
                self._room.acquire()
                if self._closed:
                    return
                fetched = self._fetch()
                if fetched is None:
                    return
                columns, delivery = fetched
                if columns is not None:
                    delivery.batch = to_device(columns, self._device)
                self._ready.put(delivery)
        except Exception as error:
            if not self._closed:
                self._ready.put(error)


def to_device(columns: Columns, device: torch.device) -> dict[str, torch.Tensor]:
    """Columns as tensors: the same memory on the CPU, through pinned memory on a GPU. To be read, never written."""
    tensors = {name: torch.from_numpy(_writable(column)) for name, column in columns.items()}
    if device.type == "cpu":
        return tensors
    return {name: t.pin_memory().to(device, non_blocking=True) for name, t in tensors.items()}


def _writable(column: Array) -> Array:
    """Views of a message are read-only, and torch has no read-only tensors: those are copied."""
    return column if column.flags.writeable else column.copy()


class QueueFetch:
    """Batches of the queue that this process hosts: the queue's own memory, no copy."""

    def __init__(self, coordinator: Coordinator, loop: LoopThread) -> None:
        self._coordinator, self._loop = coordinator, loop

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next round's batch, or the next so many unrolls in async mode."""
        self._loop.post(self._coordinator.want_batch)
        batch = self._coordinator.batches.get()
        if batch is None:
            return None
        return batch.columns if batch.headers else None, Delivery(None, batch.headers, dropped=batch.dropped)

    def set_priorities(self, keys: Array, priorities: Array) -> None:
        """A queue has none."""


def timed_next(source: Source, timeout_s: float) -> tuple[Delivery | None, float]:
    """The next delivery and the seconds waited for it."""
    started_s = time.perf_counter()
    return source.next(timeout_s), time.perf_counter() - started_s
