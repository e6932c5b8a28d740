"""Receives weights: one thread reads the learner's stream, the actor's loop takes versions and copies them in place.

The stream is also this actor's lease: while it stands, the learner counts the slot as acting.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from core import errors, rpc
from core.clock import Clock, SystemClock
from core.reconnect import Reconnect, ending_of
from core.types import Array
from protos import learner_pb2 as pb


def params_of(snapshot: pb.Snapshot) -> Array:
    """Float32, flat. Raises WeightsCorruptError."""
    if len(snapshot.params) % 4:
        raise errors.WeightsCorruptError(f"weights of {len(snapshot.params)} bytes came, float32 has 4 each")
    return np.frombuffer(snapshot.params, np.float32)


class WeightsReceiver:
    """Snapshots in the order of their versions: every one (lag mode) or the newest (async).

    `on_end` is called by the receiving thread when no more weights will come: the run is over, or the learner is gone
    for good.
    """

    def __init__(
        self,
        client: rpc.Client,
        slot: int,
        incarnation: int,
        learner_incarnation: int,
        *,
        from_version: int,
        every: bool,
        patience_s: float,
        on_end: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._client, self._slot, self._incarnation = client, slot, incarnation
        self._learner_incarnation, self._every, self._patience_s = learner_incarnation, every, patience_s
        self._on_end = on_end
        self._clock: Clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._snapshots: deque[pb.Snapshot] = deque()
        self._next_version = from_version
        self._finished: str | None = None
        self._error: errors.ShoalError | None = None
        self._closed = False
        self._stood = False
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    def take(self, version: int | None, timeout_s: float, contains: int | None = None) -> pb.Snapshot | None:
        """Exactly `version`, or the newest where it is None (which may be one taken before). None: the run is over.

        `contains` is a round of this slot that the weights must have learned from, unless it was dropped. Raises
        DeadlineError, WeightsRegressedError, or what broke the stream for good.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._may_take(version, contains), timeout_s):
                wanted = "any version" if version is None else f"version {version}"
                raise errors.DeadlineError(f"{self._client.peer} published no weights of {wanted} for {timeout_s:g} s")
            if self._error is not None:
                raise self._error
            if self._finished is not None or self._closed:
                return None
            while len(self._snapshots) > 1 and (version is None or self._snapshots[0].version < version):
                self._snapshots.popleft()
            snapshot = self._snapshots[0]
        if version is not None and snapshot.version != version:
            raise errors.WeightsRegressedError(
                f"version {version} was wanted, the oldest one here is {snapshot.version}: the learner no longer has it"
            )
        return snapshot

    def _may_take(self, version: int | None, contains: int | None) -> bool:
        if self._closed or self._finished is not None or self._error is not None:
            return True
        if not self._snapshots or (version is not None and self._snapshots[-1].version < version):
            return False
        return contains is None or self._snapshots[-1].settled.get(self._slot, -1) >= contains

    @property
    def finished(self) -> str | None:
        """Why the run is over, once it is."""
        with self._changed:
            return self._finished

    @property
    def error(self) -> errors.ShoalError | None:
        """What broke the stream for good, once it did."""
        with self._changed:
            return self._error

    def fail(self, error: errors.ShoalError) -> None:
        """Wake whoever waits with what broke elsewhere: no weights that it waits for can come any more."""
        with self._changed:
            if self._finished is None and not self._closed:
                self._error = self._error or error
                self._changed.notify_all()

    def close(self) -> None:
        """End the stream and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join(5.0)

    def _run(self) -> None:
        reconnect = Reconnect(self._patience_s, self._clock, (errors.UnavailableError, errors.DeadlineError))
        while True:
            self._stood = False
            error = ending_of(self._read_stream, self._client, "weights")
            with self._changed:
                if self._closed or self._finished is not None:
                    return
                if self._stood:
                    reconnect.stood()
                pause_s = reconnect.pause_s(error)
                if pause_s is not None:
                    self._changed.wait_for(lambda: self._closed, pause_s)
                    continue
                self._error = self._error or reconnect.given_up(error)
                self._changed.notify_all()
            self._on_end()
            return

    def _read_stream(self) -> None:
        request = pb.WeightsRequest(
            protocol=rpc.PROTOCOL,
            incarnation=self._incarnation,
            slot=self._slot,
            from_version=self._next_version,
            every=self._every,
        )
        call = self._client.stream("Weights", request)
        with self._changed:
            self._call = call
            if self._closed:
                call.cancel()
        call.initial_metadata()  # there once the learner has taken the call, or the call is over
        self._stood = bool(call.is_active())
        for reply in call:
            with self._changed:
                if reply.WhichOneof("message") == "finished":
                    self._finished = reply.finished
                else:
                    self._keep(reply.snapshot)
                self._changed.notify_all()
                finished = self._finished is not None
            if finished:
                self._on_end()
                return

    def _keep(self, snapshot: pb.Snapshot) -> None:
        if snapshot.learner_incarnation != self._learner_incarnation:
            raise errors.SeatLostError("another learner answers at this address: join anew")
        if snapshot.version < self._next_version:
            raise errors.WeightsRegressedError(
                f"version {snapshot.version} came where {self._next_version} or later was due"
            )
        if not self._every:
            self._snapshots.clear()
        self._snapshots.append(snapshot)
        self._next_version = snapshot.version + 1
