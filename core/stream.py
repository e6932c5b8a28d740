"""The windowed insert stream: sends items, keeps what is not acknowledged, resends it after a reconnect.

Called by one thread (an actor's loop, or a user's). One thread of its own reads acks and reconnects; gRPC's takes
requests from a queue, and sends small items that wait there in one message. An `insert` waits only while `window` items
are unacknowledged: that is the back-pressure.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from core import errors, rpc, wire
from core.clock import Clock, SystemClock
from core.compression import Compressor
from core.framing import MOST_HEAD_BYTES, frame
from core.pieces import Piece, cut
from core.reconnect import Reconnect, ending_of
from core.types import Columns, UnrollHeader
from protos import experience_pb2 as pb

_RETRIED = (errors.UnavailableError, errors.DeadlineError, errors.TableClosedError)
_REMEMBERED_ACKS = 1 << 16
_MERGED_HEAD_BYTES = MOST_HEAD_BYTES // 8
"""Heads of chunks that share a message; a single one may be larger."""
CLOSE_TIMEOUT_S = 5.0


class _Ending(NamedTuple):
    """Put into the queue of requests to end it; `over`: nothing will ever follow."""

    over: bool = False


class InsertStream:
    """Inserts items of one life of one actor into one table, exactly once whatever happens to the connection.

    `learner` is the incarnation of the one that gave the slot: a table that has become another's refuses the stream
    with SeatLostError. Where the server has lost what it acknowledged (its memory, or a rollback), the stream goes on
    as a new incarnation; `lost_rows` counts the env_steps that were acknowledged and are gone.
    """

    def __init__(
        self,
        channel: rpc.Channel,
        peer: str,
        table: str,
        slot: int,
        incarnation: int,
        *,
        window: int = 8,
        max_chunk_bytes: int = 1 << 20,
        patience_s: float = 30.0,
        compress: bool = False,
        learner: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], peer)
        self._open = pb.InsertOpen(
            protocol=rpc.PROTOCOL, table=table, slot=slot, incarnation=incarnation, learner=learner
        )
        self._window, self._max_chunk_bytes, self._patience_s = window, max_chunk_bytes, patience_s
        self._compressor = Compressor() if compress else None
        self._clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._unacked: deque[tuple[int, int, list[Piece]]] = deque()  # seq, env_steps, pieces
        self._acked: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED_ACKS)  # seq, env_steps
        self._epoch: int | None = None
        self._seq = 0
        self.lost_rows = 0
        self._requests: queue.SimpleQueue[Piece | _Ending] | None = None
        self._call: Any = None
        self._error: errors.ShoalError | None = None
        self._on_broken: Callable[[errors.ShoalError], None] = lambda error: None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"insert-{table}", daemon=True)
        self._thread.start()

    def insert(self, header: UnrollHeader, columns: Columns, timeout_s: float | None = None) -> float:
        """Send one item; returns the seconds waited for acks.

        Raises what broke the stream for good, and DeadlineError, with nothing sent, where the window is full for longer
        than `timeout_s`.
        """
        payload = wire.parts(columns, self._compressor)
        with self._changed:
            started_s = self._clock.now_s()
            self._wait(lambda: len(self._unacked) < self._window, timeout_s)
            self._seq += 1
            pieces = cut(self._seq, header, payload, self._max_chunk_bytes)
            self._unacked.append((self._seq, header.env_steps, pieces))
            if self._requests is not None:
                for piece in pieces:
                    self._requests.put(piece)
            return self._clock.now_s() - started_s

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is acknowledged. Raises DeadlineError."""
        with self._changed:
            self._wait(lambda: not self._unacked, timeout_s)

    def when_broken(self, call: Callable[[errors.ShoalError], None]) -> None:
        """Have `call` told, by the stream's thread or at once, what broke the stream for good.

        For a caller that waits elsewhere, for what only its own item can bring about.
        """
        with self._changed:
            self._on_broken = call
            error = self._error
        if error is not None:
            call(error)

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
            requests.put(_Ending())
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Tell the server that this life is over, if all is acknowledged, and end the stream."""
        with self._changed:
            orderly = not (self._closed or self._unacked or self._error or self._requests is None)
            if orderly:
                self._closed = True  # the thread returns when the server has ended the stream
                self._changed.notify_all()
            requests = self._requests
        if orderly and requests is not None:
            requests.put(_Ending(over=True))
            self._thread.join(CLOSE_TIMEOUT_S)
        self.cancel()
        self._thread.join(CLOSE_TIMEOUT_S)

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

    # ------------------------------------------------------------------------------------------ the stream's thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # nobody may wait for ever because this thread is gone
            failed = errors.ReplayError(f"the insert stream of {self._open.table!r} failed: {error!r}")
            failed.__cause__ = error
            self._break(failed)

    def _break(self, error: errors.ShoalError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
            tell, closed = self._on_broken, self._closed
        if not closed:
            tell(error)

    def _serve(self) -> None:
        reconnect = Reconnect(self._patience_s, self._clock, _RETRIED)
        while not self._closed:
            error = ending_of(self._serve_connection, self._client, "insert")
            with self._changed:
                if self._requests is not None:
                    self._requests = None
                    reconnect.stood()
                    reconnect.retried = (*_RETRIED, errors.TableNotFoundError)  # who lost it may make it again
                pause_s = reconnect.pause_s(error)
                if pause_s is not None:
                    self._changed.wait_for(lambda: self._closed, pause_s)
                    continue
            self._break(reconnect.given_up(error))
            return

    def _serve_connection(self) -> None:
        requests: queue.SimpleQueue[Piece | _Ending] = queue.SimpleQueue()
        call = self._client.stream("Insert", self._messages(requests))
        try:
            with self._changed:
                self._call = call
                if self._closed:
                    return
            opened = next(call, None)
            if opened is None:
                return
            self._resend(opened.opened, requests)
            for reply in call:
                with self._changed:
                    self._acknowledge(reply.ack)
        finally:
            requests.put(_Ending())
            call.cancel()

    def _messages(self, requests: queue.SimpleQueue[Piece | _Ending]) -> Iterator[pb.InsertRequest | bytes]:
        """What gRPC sends: the opening, then pieces as they come, small ones that wait together."""
        yield pb.InsertRequest(open=self._open)
        piece = requests.get()
        while isinstance(piece, Piece):
            if piece.message is not None:
                yield piece.message
                piece = requests.get()
                continue
            chunks, payload, size = [piece.chunk], [piece.payload], len(piece.payload)
            following: Piece | _Ending | None = None
            head_bytes = piece.chunk.ByteSize()
            while size < self._max_chunk_bytes and head_bytes < _MERGED_HEAD_BYTES and not requests.empty():
                following = requests.get()
                if (
                    isinstance(following, _Ending)
                    or following.message is not None
                    or size + len(following.payload) > self._max_chunk_bytes
                ):
                    break
                chunks.append(following.chunk)
                payload.append(following.payload)
                size += len(following.payload)
                head_bytes += following.chunk.ByteSize()
                following = None
            yield frame(pb.InsertRequest(chunks=chunks), payload)
            piece = requests.get() if following is None else following
        if piece.over:
            yield pb.InsertRequest(over=True)

    def _resend(self, opened: pb.InsertOpened, requests: queue.SimpleQueue[Piece | _Ending]) -> None:
        """Go on from where the server stands, as a new incarnation if that is not held here any more."""
        with self._changed:
            self._acknowledge(opened.next_seq - 1)
            oldest = self._unacked[0][0] if self._unacked else self._seq + 1
            keep = opened.staged or self._epoch not in (None, opened.table_epoch)
            self._epoch = opened.table_epoch
            if opened.next_seq != oldest:
                self._begin_anew(opened.next_seq, keep=keep)
                raise errors.UnavailableError(f"{self._client.peer} expects seq {opened.next_seq}, not {oldest}")
            for _, _, pieces in self._unacked:
                for piece in pieces:
                    requests.put(piece)
            self._requests = requests

    def _begin_anew(self, next_seq: int, keep: bool) -> None:
        """A new incarnation, its seqs from 1. What is unacknowledged goes into it, unless it might be there already.

        Only a table that has lost its memory (another epoch) is sure to hold nothing of it; one that stages unrolls
        knows them by round and slot.
        """
        self.lost_rows += sum(env_steps for seq, env_steps in self._acked if seq >= next_seq)
        if not keep:
            self.lost_rows += sum(env_steps for _, env_steps, _ in self._unacked)
            self._unacked.clear()
        self._acked.clear()
        self._open.incarnation = secrets.randbits(63)
        self._seq = 0
        for position, (_, env_steps, pieces) in enumerate(list(self._unacked)):
            self._seq += 1
            for piece in pieces:
                piece.chunk.seq = self._seq
            self._unacked[position] = (self._seq, env_steps, [piece._replace(message=None) for piece in pieces])
        self._changed.notify_all()

    def _acknowledge(self, seq: int) -> None:
        while self._unacked and self._unacked[0][0] <= seq:
            done, env_steps, _ = self._unacked.popleft()
            self._acked.append((done, env_steps))
        self._changed.notify_all()
