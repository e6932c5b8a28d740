"""The windowed insert stream: sends items, keeps what is not acknowledged, resends it after a reconnect.

Called by one thread (an actor's loop, or a user's). One thread of its own reads acks and reconnects; gRPC's takes
requests from a queue. An `insert` waits only while `window` items are unacknowledged: that is the back-pressure.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from core import errors, rpc, wire
from core.clock import Clock, SystemClock
from core.reconnect import Reconnect, ending_of
from core.types import Columns, UnrollHeader
from protos import experience_pb2 as pb

_RETRIED = (errors.UnavailableError, errors.DeadlineError, errors.TableClosedError)


class InsertStream:
    """Inserts items of one life of one actor into one table, exactly once whatever happens to the connection."""

    def __init__(
        self,
        channel: grpc.Channel,
        peer: str,
        table: str,
        slot: int,
        incarnation: int,
        *,
        window: int = 8,
        max_chunk_bytes: int = 1 << 20,
        patience_s: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], peer)
        self._open = pb.InsertOpen(protocol=rpc.PROTOCOL, table=table, slot=slot, incarnation=incarnation)
        self._window, self._max_chunk_bytes, self._patience_s = window, max_chunk_bytes, patience_s
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._unacked: deque[tuple[int, list[pb.InsertRequest]]] = deque()
        self._seq = 0
        self._requests: queue.SimpleQueue[pb.InsertRequest | None] | None = None
        self._call: Any = None
        self._error: errors.ShoalError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"insert-{table}", daemon=True)
        self._thread.start()

    def insert(self, header: UnrollHeader, columns: Columns) -> float:
        """Send one item; returns the seconds waited for acks. Raises what broke the stream for good."""
        payload = wire.encode(columns)
        with self._changed:
            started_s = self._clock.now_s()
            self._wait(lambda: len(self._unacked) < self._window, None)
            self._seq += 1
            requests = list(self._chunks(self._seq, header, payload))
            self._unacked.append((self._seq, requests))
            if self._requests is not None:
                for request in requests:
                    self._requests.put(request)
            return self._clock.now_s() - started_s

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is acknowledged. Raises DeadlineError."""
        with self._changed:
            self._wait(lambda: not self._unacked, timeout_s)

    @property
    def unacknowledged(self) -> int:
        """Items sent that the table has not confirmed."""
        with self._changed:
            return len(self._unacked)

    def cancel(self) -> None:
        """End the stream and wake whoever waits; what is unacknowledged may or may not be in the table."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call, requests = self._call, self._requests
        if requests is not None:
            requests.put(None)
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Cancel, and wait for the stream's thread."""
        self.cancel()
        self._thread.join(5.0)

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None) -> None:
        if not self._changed.wait_for(lambda: self._closed or self._error is not None or ready(), timeout_s):
            raise errors.DeadlineError(
                f"{self._client.peer} left {len(self._unacked)} items unacknowledged for {timeout_s} s: "
                "its table is full or its rate limiter waits for the learner"
            )
        if self._error is not None:
            raise self._error
        if self._closed:
            raise errors.TableClosedError("the insert stream was closed")

    def _chunks(self, seq: int, header: UnrollHeader, payload: bytes) -> Iterator[pb.InsertRequest]:
        size = self._max_chunk_bytes
        parts = max(1, -(-len(payload) // size))
        for part in range(parts):
            yield pb.InsertRequest(
                chunk=pb.Chunk(
                    seq=seq,
                    part=part,
                    parts=parts,
                    header=wire.header_to_proto(header) if part == 0 else None,
                    payload=payload if parts == 1 else payload[part * size : (part + 1) * size],
                )
            )

    def _run(self) -> None:
        reconnect = Reconnect(self._patience_s, self._clock, _RETRIED)
        while not self._closed:
            error = ending_of(self._serve_connection, self._client, "insert")
            with self._changed:
                if self._requests is not None:
                    self._requests = None
                    reconnect.stood()
                pause_s = reconnect.pause_s(error)
                if pause_s is None:
                    self._error = error
                    self._changed.notify_all()
                    return
                self._changed.wait_for(lambda: self._closed, pause_s)

    def _serve_connection(self) -> None:
        requests: queue.SimpleQueue[pb.InsertRequest | None] = queue.SimpleQueue()
        requests.put(pb.InsertRequest(open=self._open))
        call = self._client.stream("Insert", iter(requests.get, None))
        try:
            with self._changed:
                self._call = call
                if self._closed:
                    return
            opened = next(call, None)
            if opened is None:
                return
            self._resend(opened.next_seq, requests)
            for reply in call:
                with self._changed:
                    self._acknowledge(reply.ack)
        finally:
            requests.put(None)
            call.cancel()

    def _resend(self, next_seq: int, requests: queue.SimpleQueue[pb.InsertRequest | None]) -> None:
        with self._changed:
            self._acknowledge(next_seq - 1)
            oldest = self._unacked[0][0] if self._unacked else self._seq + 1
            if next_seq != oldest:
                raise errors.ItemRejectedError(
                    f"{self._client.peer} expects seq {next_seq}, the oldest one kept here is {oldest}: "
                    "the server lost its memory; start this actor anew"
                )
            for _, chunks in self._unacked:
                for chunk in chunks:
                    requests.put(chunk)
            self._requests = requests

    def _acknowledge(self, seq: int) -> None:
        while self._unacked and self._unacked[0][0] <= seq:
            self._unacked.popleft()
        self._changed.notify_all()
