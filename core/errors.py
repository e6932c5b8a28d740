"""Every error Shoal raises on purpose.

    ShoalError
    ├── ConfigError            a setting, or several, cannot be used (all of them are listed)
    ├── WireError
    │   ├── CodecError         bytes that are not a chunk
    │   ├── SchemaError        a chunk that does not fit its table's signature
    │   └── TooLargeError      over a limit, found before anything was allocated
    ├── ReplayError
    │   ├── TableNotFoundError
    │   ├── TableClosedError
    │   ├── ItemRejectedError
    │   └── RateLimitedError   a deadline passed while the rate limiter said no
    ├── WeightsError
    │   ├── WeightsRegressedError
    │   └── WeightsCorruptError
    ├── TransportError
    │   ├── UnavailableError   nobody answers
    │   ├── DeadlineError      somebody may answer, but not in time
    │   └── PeerIncompatibleError
    ├── EnvironmentFailedError an environment raised or returned what no policy can use
    ├── CheckpointError
    └── DivergedError          a loss or a parameter is not finite

A message says what happened, the value, the limit and what to do. `exit_code` is what a process returns when the
error ends it; launchers and orchestrators tell the cases apart by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class ShoalError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class ConfigError(ShoalError):
    """One or more settings cannot be used; `problems` lists every one of them."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems: tuple[str, ...] = problems
        lines = problems if len(problems) == 1 else [f"{len(problems)} problems:", *(f"  - {p}" for p in problems)]
        super().__init__("\n".join(lines))

    @classmethod
    def raise_if(cls, problems: Iterable[str]) -> None:
        """Raise with all `problems`, or return where there are none."""
        found = tuple(problems)
        if found:
            raise cls(*found)


class WireError(ShoalError):
    """Something is wrong with bytes that came from a peer."""


class CodecError(WireError):
    """The bytes are not a chunk."""


class SchemaError(WireError):
    """The chunk does not fit the table's signature."""


class TooLargeError(WireError):
    """A size is over its limit."""


class ReplayError(ShoalError):
    """A table refused."""


class TableNotFoundError(ReplayError):
    """No table of that name."""


class TableClosedError(ReplayError):
    """The table was closed while, or before, somebody used it."""


class ItemRejectedError(ReplayError):
    """The item cannot be taken (an unknown slot, a round that is over)."""


class SeatLostError(ItemRejectedError):
    """A process has no seat any more: its learner was replaced, or the slot given away. It may join anew."""


class RateLimitedError(ReplayError):
    """The rate limiter did not allow the call before its deadline."""


class WeightsError(ShoalError):
    """Something is wrong with published weights."""


class WeightsRegressedError(WeightsError):
    """A version came after a newer one."""


class WeightsCorruptError(WeightsError):
    """Weights that do not fit the network."""


class TransportError(ShoalError):
    """A peer cannot be reached or understood."""

    exit_code = 4


class UnauthenticatedError(TransportError):
    """A call came without a token that the server knows, or over a connection that is not trusted."""


class ForbiddenError(TransportError):
    """A call needs another role than its token has."""


class UnavailableError(TransportError):
    """Nobody answers at the address."""


class DeadlineError(TransportError):
    """No answer before the deadline."""


class PeerLostError(UnavailableError):
    """A peer that was reached before stayed away for longer than the settings allow."""

    exit_code = 7


def another_life_may_help(code: int) -> bool:
    """Whether a learner that ended with this code may do better: killed, crashed, or cut off from its peers."""
    return code < 0 or code in (ShoalError.exit_code, TransportError.exit_code, PeerLostError.exit_code)


class PeerIncompatibleError(TransportError):
    """The peer speaks another protocol version."""


class EnvironmentFailedError(ShoalError):
    """An environment raised, or returned NaN, infinity or a wrong shape."""

    exit_code = 3


class CheckpointError(ShoalError):
    """A checkpoint cannot be written, read or used."""

    exit_code = 6


class DivergedError(ShoalError):
    """A loss or a parameter is not finite any more."""

    exit_code = 5


def all_errors(root: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    """`root` and every class below it."""
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)
