"""The draws of a sample stream in their order: what is asked, what must be asked again, what can be handed out.

Pure; core/sampling.py is the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core import wire
from core.errors import ReplayError
from core.framing import frame
from core.types import Array, UnrollHeader
from protos import experience_pb2 as pb

MOST_UNCONFIRMED = 256
"""Priorities set alone are kept until a draw behind them is answered: so many at most, the newest."""


class Reply(NamedTuple):
    """A draw, or (`keys` None) what is new while draw `draw` waits. Arrays are to be read, not written.

    `columns` [window, n, ...] and `keys`, `probability` [n]: n = batches x batch_size, a batch after the other. The
    counts are of items since the table was made; `items` were in it when the draw was made. `waited_s` is how long the
    server held the draw back, `reason` why it still does. `unknown_keys` of the priorities set had no item any more.
    `epoch` is that of the table whose items the keys are.
    """

    draw: int
    keys: NDArray[np.int64] | None
    probability: NDArray[np.float64] | None
    columns: dict[str, Array] | None
    headers: Sequence[UnrollHeader]
    items: int
    inserted_items: int
    sampled_items: int
    waited_s: float
    reason: str
    unknown_keys: int
    epoch: int = 0


def read_reply(
    message: pb.SampleReply,
    keys: NDArray[np.int64] | None = None,
    probability: NDArray[np.float64] | None = None,
    columns: dict[str, Array] | None = None,
    epoch: int = 0,
) -> Reply:
    """The reply of a message and what its payload held."""
    headers = message.headers
    return Reply(
        message.draw,
        keys,
        probability,
        columns,
        [wire.header_from_proto(header) for header in headers] if headers else (),
        message.items,
        message.inserted_items,
        message.sampled_items,
        message.waited_s,
        message.reason,
        message.unknown_keys,
        epoch,
    )


@dataclass(slots=True, eq=False)
class Asked:
    """A request that is not answered; `draw` None: priorities alone, which never are."""

    draw: pb.Draw | None
    priorities: tuple[Array, Array] | None
    epoch: int
    """Of the table that the priorities' keys are of; 0: it was not known yet."""
    reply: Reply | None = None
    torn: int = 0
    """How often it was overwritten before it was read."""

    def drop_priorities(self) -> None:
        """They are of another epoch: their keys may be other items now."""
        only = self.draw is not None and not self.draw.batches and not self.draw.HasField("apply")
        self.priorities = (np.empty(0), np.empty(0)) if only else None  # a draw of nothing at all is refused

    def message(self) -> bytes:
        """The request, framed."""
        if self.priorities is None:
            return pb.SampleRequest(draw=self.draw).SerializeToString()
        keys, priorities = self.priorities
        payload = wire.parts({"key": np.asarray(keys, np.int64), "priority": np.asarray(priorities, np.float32)})
        return frame(pb.SampleRequest(draw=self.draw), payload)


class Line:
    """Requests in the order of asking, from the oldest one that was not handed out."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()
        self._sent: deque[Asked] = deque()  # draws sent on this connection, in the order of sending

    def add(self, asked: Asked) -> None:
        """Asked last."""
        self._asked.append(asked)
        if asked.draw is None:
            alone = [other for other in self._asked if other.draw is None]
            if len(alone) > MOST_UNCONFIRMED:
                self._asked.remove(alone[0])

    def sent(self, asked: Asked) -> None:
        """It was sent on this connection; a draw's answer is due after those before it."""
        if asked.draw is not None:
            self._sent.append(asked)

    def begin(self, epoch: int) -> list[Asked]:
        """A connection stands: what is to be sent on it, in order. Priorities of another epoch are dropped."""
        self._sent.clear()
        for asked in self._asked:
            if asked.epoch not in (0, epoch):
                asked.drop_priorities()
        return [a for a in self._asked if a.reply is None and (a.draw is not None or a.priorities is not None)]

    def due(self, draw: int) -> Asked:
        """The request that an answer to `draw` is for; its priorities are set and its round is applied.

        Raises ReplayError for an answer that is not due.
        """
        asked = self._sent.popleft() if self._sent else None
        if asked is None or asked.draw is None or asked.draw.draw != draw:
            raise ReplayError(f"draw {draw} was answered, which is not due")
        asked.priorities = None
        asked.draw.ClearField("apply")
        return asked

    def answer(self, asked: Asked, reply: Reply) -> list[Reply]:
        """What can be handed out now: the answered draws at the front, in order."""
        asked.reply = reply
        replies: list[Reply] = []
        while True:
            first = next((a for a in self._asked if a.draw is not None), None)
            if first is None or first.reply is None:
                return replies
            while self._asked.popleft() is not first:
                pass  # priorities alone before it, which have been set by then
            replies.append(first.reply)
