"""Where batches come from: the learner's own queue, or a replay server. One thread fetches and copies to the device.

The training thread takes deliveries; the fetching thread works ahead by at most one. Both kinds give the same thing,
so the training loop knows neither.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
import torch

from core import rpc, wire
from core.errors import TableClosedError
from core.types import Array, Columns, UnrollHeader
from learner.background import LoopThread
from learner.coordinator import Coordinator
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition


@dataclass
class Delivery:
    """What the loop trains on: a batch on the device, or none (an empty cohort, or only news), and headers."""

    batch: dict[str, torch.Tensor] | None
    headers: Sequence[UnrollHeader]
    is_round: bool = True
    limiter_wait_s: float = 0.0


class Fetch(Protocol):
    """Gets the next delivery's columns, blocking; None when there will be no more."""

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next one."""
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
        return batch.columns if batch.headers else None, Delivery(None, batch.headers)


class ReplayFetch:
    """Draws from a replay server, `AHEAD` of them requested before they are needed."""

    AHEAD = 2

    def __init__(
        self,
        channel: grpc.Channel,
        peer: str,
        definition: ReplayDefinition,
        seed: int,
        timeout_s: float,
        note: Callable[[list[UnrollHeader]], None],
    ) -> None:
        client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], peer)
        request = pb.EnsureTableRequest(
            protocol=rpc.PROTOCOL, table=pb.TableDefinition(name=definition.name, settings=definition.pack())
        )
        client.unary("EnsureTable", request, pb.EnsureTableReply, timeout_s, wait=True)
        self._peer, self._batches, self._note = peer, definition.batches_per_round, note
        self._requests: queue.SimpleQueue[pb.SampleRequest | None] = queue.SimpleQueue()
        opened = pb.SampleOpen(protocol=rpc.PROTOCOL, table=definition.name, seed=seed)
        self._requests.put(pb.SampleRequest(open=opened))
        self._draw = 0
        for _ in range(self.AHEAD):
            self._request()
        self._replies = client.stream("Sample", iter(self._requests.get, None))
        self._closed = False

    def _request(self) -> None:
        self._requests.put(pb.SampleRequest(draw=pb.Draw(draw=self._draw, batches=self._batches)))
        self._draw += 1

    def __call__(self) -> tuple[Columns | None, Delivery] | None:
        """The next draw, or the news that came while it waited."""
        try:
            reply = next(self._replies, None)
        except grpc.RpcError as error:
            if self._closed:
                return None
            raise rpc.from_rpc(error, self._peer) from error
        if reply is None:
            if self._closed:
                return None
            raise TableClosedError(f"{self._peer} ended the sample stream")
        headers = [wire.header_from_proto(h) for h in reply.headers]
        self._note(headers)
        if not reply.keys:
            return None, Delivery(None, headers, is_round=False)
        self._request()
        return wire.decode(reply.payload), Delivery(None, headers, limiter_wait_s=reply.waited_s)

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._requests.put(None)
        self._replies.cancel()


def timed_next(source: Source, timeout_s: float) -> tuple[Delivery | None, float]:
    """The next delivery and the seconds waited for it."""
    started_s = time.perf_counter()
    return source.next(timeout_s), time.perf_counter() - started_s
