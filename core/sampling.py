"""The sample stream: asks for draws, sets priorities, hands out batches, in order, whatever happens to the connection.

Called by one thread (a learner's source, or a user's). One thread of its own receives, decodes and reconnects; gRPC's
takes requests from a queue. Replies with items come in the order of the requests; what the server tells while a draw
waits comes in between, as replies without items.

By reference the server sends keys, and the windows are copied from its files as soon as the keys are here. What was
overwritten before that is asked for again: the same draw, of the table as it is then. In lag mode, where the same draws
must come out of every run, request nothing ahead: a reply is here only after its windows were copied, so whoever waits
for it before he sends the next request lets the server overwrite nothing too early. A ring so small, or filled so fast,
that a draw is overwritten again and again is read through the connection from then on.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from core import errors, rpc, wire
from core.clock import Clock, SystemClock
from core.draws import Asked, Line, Reply, read_reply
from core.framing import Framed
from core.mapped import ORDERED_STORES, MappedRing
from core.reconnect import Reconnect, ending_of
from core.types import Array
from protos import experience_pb2 as pb

_RETRIED = (errors.UnavailableError, errors.DeadlineError, errors.TableClosedError)
CLOSE_TIMEOUT_S = 5.0
SILENCE_S = 5.0
"""How long a server that was reached may leave a client without its first reply."""
MOST_TORN = 8
"""One draw is tried so often by reference before columns are asked for."""
logger = logging.getLogger(__name__)


class SampleStream:
    """Draws of one client from one table.

    Draw j is a function of `seed`, j and the table; j counts from `first_draw`, and a draw is requested again under its
    number where the connection broke before the answer. `by_reference` asks to read the table's files where the server
    has them on this host. `headers` asks for those of inserted unrolls, which one client of a table may have.
    """

    def __init__(
        self,
        channel: rpc.Channel,
        peer: str,
        table: str,
        seed: int,
        *,
        by_reference: bool = False,
        compress: bool = False,
        headers: bool = False,
        learner: int = 0,
        first_draw: int = 0,
        patience_s: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = rpc.Client(channel, pb.DESCRIPTOR.services_by_name["Experience"], peer)
        wishes = {"by_reference": by_reference and ORDERED_STORES, "compress": compress, "headers": headers}
        self._open = pb.SampleOpen(protocol=rpc.PROTOCOL, table=table, seed=seed, learner=learner, **wishes)
        self._patience_s, self._clock = patience_s, clock or SystemClock()
        self.torn = 0
        """Draws by reference that were overwritten before they were read, and asked for again."""
        self._changed = threading.Condition()  # guards all that follows
        self._opened: pb.SampleOpened | None = None
        self._mapped: MappedRing | None = None
        self._received_epoch = 0  # of the table whose keys were handed out last
        self._next_draw = first_draw
        self._line = Line()
        self._requests: queue.SimpleQueue[bytes | None] | None = None
        self._call: Any = None
        self._error: errors.ShoalError | None = None
        self._closed = False
        self._ready: queue.SimpleQueue[Reply | errors.ShoalError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"sample-{table}", daemon=True)
        self._thread.start()

    @property
    def opened(self) -> pb.SampleOpened:
        """What the server said of the table last; waits for it. Raises DeadlineError or what broke the stream."""
        timeout_s = self._patience_s + SILENCE_S
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._error or self._opened, timeout_s)
            if self._opened is not None:
                return self._opened
            self._check_open()
        raise errors.DeadlineError(f"{self._client.peer} said nothing for {timeout_s:g} s")

    @property
    def next_draw(self) -> int:
        """The number of the next draw."""
        with self._changed:
            return self._next_draw

    @property
    def by_reference(self) -> bool:
        """Whether windows are read from the table's files, and only keys come through the connection."""
        with self._changed:
            return self._mapped is not None

    def request(
        self,
        batches: int,
        batch_size: int = 0,
        *,
        apply: tuple[int, Sequence[int]] | None = None,
        priorities: tuple[Array, Array] | None = None,
    ) -> int:
        """Ask for `batches` batches (0: only for what comes before them) of `batch_size` items (0: the table's).

        `priorities` (keys [n], priorities [n]) are set and the staged unrolls of `apply` (round, slots) go into the
        table before the draw. Returns the draw's number. Raises what broke the stream for good.
        """
        rounds = None if apply is None else pb.Apply(round=apply[0], slots=apply[1])
        with self._changed:
            number = self._next_draw
            draw = pb.Draw(draw=number, batches=batches, batch_size=batch_size, apply=rounds)
            self._ask(draw, priorities)
            self._next_draw += 1
        return number

    def set_priorities(self, keys: Array, priorities: Array) -> None:
        """Set priorities [n] without a draw. Nothing tells that they were set; keys without an item are ignored."""
        with self._changed:
            self._ask(None, (keys, priorities))

    def receive(self, timeout_s: float | None = None) -> Reply:
        """The next reply, in the order of requests, with news in between.

        Raises DeadlineError after `timeout_s` and after `wake`, TableClosedError after `close`, and what broke the
        stream for good: a draw that the server refuses, or no connection for `patience_s`. While a draw waits the
        server tells news twice a second; with nothing requested and no timeout, only `wake` and `close` end this.
        """
        try:
            got = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            raise errors.DeadlineError(
                f"{self._client.peer} sent nothing of table {self._open.table!r} for {timeout_s:g} s"
            ) from None
        if got is None:
            raise errors.DeadlineError(f"receive was woken before {self._client.peer} sent more")
        if isinstance(got, errors.ShoalError):
            self._ready.put(got)  # for whoever comes next
            raise got
        if got.keys is not None and got.keys.size:
            self._received_epoch = got.epoch
        return got

    def wake(self) -> None:
        """Let `receive` raise DeadlineError now, or when it is called next; safe in a signal handler."""
        self._ready.put(None)

    def close(self) -> None:
        """End the stream and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call, requests = self._call, self._requests
        self._ready.put(_closed())
        if requests is not None:
            requests.put(None)
        if call is not None:
            call.cancel()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _ask(self, draw: pb.Draw | None, priorities: tuple[Array, Array] | None) -> None:
        self._check_open()
        now = 0 if self._opened is None else self._opened.table_epoch
        asked = Asked(draw, priorities, self._received_epoch or now)
        message = asked.message()  # before it is in the line: what is no array raises here
        if priorities is not None and now not in (0, asked.epoch):
            if draw is None:
                return
            asked.drop_priorities()
            message = asked.message()
        self._line.add(asked)
        self._send(asked, message)

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise _closed()

    def _send(self, asked: Asked, message: bytes) -> None:
        if self._requests is not None:
            self._line.sent(asked)
            self._requests.put(message)

    # ------------------------------------------------------------------------------------------ the stream's thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # nobody may wait for ever because this thread is gone
            failed = errors.ReplayError(f"the sample stream of {self._open.table!r} failed: {error!r}")
            failed.__cause__ = error
            self._end(failed)

    def _end(self, error: errors.ShoalError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
        self._ready.put(error)

    def _serve(self) -> None:
        reconnect = Reconnect(self._patience_s, self._clock, _RETRIED)
        while not self._closed:
            error = ending_of(self._serve_connection, self._client, "sample")
            with self._changed:
                if self._requests is not None:
                    self._requests = None
                    reconnect.stood()
                pause_s = reconnect.pause_s(error)
                if pause_s is not None or self._closed:
                    self._changed.wait_for(lambda: self._closed, pause_s)
                    continue
            self._end(reconnect.given_up(error))
            return

    def _serve_connection(self) -> None:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests.put(pb.SampleRequest(open=self._open).SerializeToString())
        call = self._client.stream("Sample", iter(requests.get, None), framed=True)
        try:
            with self._changed:
                self._call = call
                if self._closed:
                    return
            first: Framed[pb.SampleReply] | None = next(call, None)
            if first is None:
                return
            self._begin(first.message.opened, requests)
            for reply in call:
                self._take(reply)
        finally:
            requests.put(None)
            call.cancel()

    def _begin(self, opened: pb.SampleOpened, requests: queue.SimpleQueue[bytes | None]) -> None:
        mapped = self._map(opened)
        with self._changed:
            self._opened, self._mapped, self._requests = opened, mapped, requests
            for asked in self._line.begin(opened.table_epoch):
                self._send(asked, asked.message())
            self._changed.notify_all()

    def _map(self, opened: pb.SampleOpened) -> MappedRing | None:
        """The table's files, where the server lets us. Where they cannot be read, it is asked for columns instead."""
        if not opened.directory:
            return None
        mapped = self._mapped
        if mapped is not None and (str(mapped.directory), mapped.epoch) == (opened.directory, opened.table_epoch):
            return mapped
        try:
            return MappedRing(opened.directory, opened.table_epoch)
        except errors.ReplayError as error:
            self._give_up_files(error)

    def _take(self, framed: Framed[pb.SampleReply]) -> None:
        message, payload = framed
        if not payload:
            self._ready.put(read_reply(message))
            return
        decoded = wire.decode(payload)
        keys, probability = decoded.pop("key", None), decoded.pop("probability", None)
        if keys is None:
            raise errors.CodecError(f"{self._client.peer} answered draw {message.draw} without keys")
        columns: dict[str, Array] | None = decoded
        if self._mapped is not None and keys.size:
            columns = self._mapped.gather(keys)
        with self._changed:
            asked = self._line.due(message.draw)
            if columns is None:
                self._ready.put(read_reply(message))  # its headers are told once
                self._read_again(asked)
                return
            reply = read_reply(message, keys, probability, columns, self._opened.table_epoch if self._opened else 0)
            for ready in self._line.answer(asked, reply):
                self._ready.put(ready)

    def _read_again(self, asked: Asked) -> None:
        self.torn += 1
        asked.torn += 1
        if asked.torn > MOST_TORN:
            self._give_up_files(f"a draw was overwritten {asked.torn} times before it was read")
        self._send(asked, asked.message())

    def _give_up_files(self, why: object) -> NoReturn:
        logger.warning("%s: columns come through the connection instead: %s", self._client.peer, why)
        self._open.by_reference = False
        raise errors.UnavailableError(f"{self._client.peer} is asked again, for columns")


def _closed() -> errors.TableClosedError:
    return errors.TableClosedError("the sample stream was closed")
