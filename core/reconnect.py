"""Streams that outlive their connection: what ended it, whether to try again, and when. For the stream's own thread."""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc

from core import errors, rpc
from core.clock import Clock

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


def ending_of(serve: Callable[[], None], client: rpc.Client, what: str) -> errors.ShoalError:
    """Serve one connection until it ends, and say what ended it."""
    try:
        serve()
    except grpc.RpcError as broken:
        return rpc.from_rpc(broken, client.peer)
    except errors.ShoalError as raised:
        return raised
    return errors.UnavailableError(f"{client.peer} ended the {what} stream")


class Reconnect:
    """Tries again for `patience_s` after a connection broke, at growing intervals with jitter; only after `retried`."""

    def __init__(self, patience_s: float, clock: Clock, retried: tuple[type[errors.ShoalError], ...]) -> None:
        self._patience_s, self._clock, self.retried = patience_s, clock, retried
        self._jitter = random.Random()  # of its own: threads must not draw from what a test or a user has seeded
        self.stood()

    def stood(self) -> None:
        """The connection stood until now: patience starts anew."""
        self._since_s, self._pause_s = self._clock.now_s(), FIRST_PAUSE_S

    def pause_s(self, error: errors.ShoalError) -> float | None:
        """Seconds until the next attempt; None: give up, with `error`."""
        if not isinstance(error, self.retried) or self._clock.now_s() - self._since_s > self._patience_s:
            return None
        pause_s, self._pause_s = self._pause_s, min(LONGEST_PAUSE_S, 2 * self._pause_s)
        return pause_s * self._jitter.uniform(0.5, 1.0)

    def given_up(self, error: errors.ShoalError) -> errors.ShoalError:
        """What to raise after `pause_s` gave up with `error`: PeerLostError where patience ran out."""
        if not isinstance(error, self.retried):
            return error
        return errors.PeerLostError(f"{error}; it was tried again for {self._patience_s:g} s")
