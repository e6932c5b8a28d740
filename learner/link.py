"""The learner's connection to a replay server: the table it wants there, its sample stream, and what is told of it."""

from __future__ import annotations

import logging
import math
import queue
from dataclasses import replace

from core import rpc
from core.clock import Clock, SystemClock
from core.compression import crosses_network
from core.config import Config
from core.errors import ConfigError, ShoalError
from core.sampling import SampleStream
from core.specs import Signature
from core.types import Lag, Plan, Replay
from learner.coordinator import CompleteRound
from learner.pace import draw_seed
from learner.replay import AsyncFetch, LagFetch, Note
from learner.status import Waiter
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from replay_server.settings import MOST_DRAW_BYTES, window_bytes
from replay_server.settings import plan as parts_of
from replay_server.staging import MOST_BYTES

ASK_TIMEOUT_S = 2.0
MESSAGE_SHARE = 0.9
"""Of the largest message, for a draw's items; headers come beside them."""
KEY_BYTES = 16
"""Of an item's key and probability."""
logger = logging.getLogger(__name__)


def definition_of(
    name: str,
    plan: Plan,
    table: Replay,
    signature: Signature,
    writers: int,
    max_message_bytes: int = MOST_DRAW_BYTES,
) -> ReplayDefinition:
    """The table that a plan asks for. With a fixed lag the learner counts and the server only waits for rounds.

    A draw has as many batches as a round needs and a message holds, at least one.
    """
    lag = isinstance(plan.pace, Lag)
    definition = ReplayDefinition(
        name=name,
        signature=signature,
        capacity=table.capacity,
        batch_size=table.batch_size,
        max_batches=1,
        min_size=1 if lag else table.min_size,
        samples_per_insert=0.0 if lag else table.samples_per_insert,
        before=table.before,
        after=table.after,
        writers=writers,
        sampler="prioritised" if table.prioritised else "uniform",
        priority_exponent=table.priority_exponent,
        max_times_sampled=table.max_times_sampled,
        staged=lag,
    )
    batches = table.batches_per_round
    if lag:
        batches = math.ceil(writers * signature.max_rows * signature.max_envs * table.updates_per_env_step)
    room = int(MESSAGE_SHARE * min(max_message_bytes, MOST_DRAW_BYTES))
    fits = room // (table.batch_size * (window_bytes(definition) + KEY_BYTES))
    return replace(definition, max_batches=max(1, min(batches, fits)))


def why_refused(definition: ReplayDefinition, actors: int, lag: int | None = None) -> str | None:
    """Why the table cannot have so many actors, with the arithmetic. With a fixed lag each stages lag + 1 unrolls.

    Raises ConfigError with all that is wrong with the table itself: a ring too small for its own writers, or a rate
    limiter that would deadlock.
    """
    signature = definition.signature
    problem = parts_of(definition).layout.problem(actors, signature.max_rows, signature.max_envs)
    return problem if problem is not None or lag is None else _why_too_much_staged(signature, actors, lag)


def _why_too_much_staged(signature: Signature, actors: int, lag: int) -> str | None:
    unroll = signature.nbytes(signature.max_rows, signature.max_envs)
    need = actors * (lag + 1) * unroll
    if need <= MOST_BYTES:
        return None
    return (
        f"with a fixed policy lag of {lag}, {actors} actors x {lag + 1} unrolls of {unroll:,} bytes that wait for "
        f"their rounds at the replay server are {need:,} bytes, the limit is {MOST_BYTES:,}: use fewer actors, fewer "
        "environments an actor or shorter unrolls, or --policy-lag async"
    )


class ReplayLink:
    """Makes the table at once and keeps the connection until `close`."""

    def __init__(
        self,
        address: str,
        config: Config,
        definition: ReplayDefinition,
        first_version: int,
        clock: Clock | None = None,
    ) -> None:
        network, self.peer, self._name = config.network, f"the replay server at {address}", definition.name
        self._clock, self._patience_s = clock or SystemClock(), config.faults.learner_patience_s
        self._away_since_s = math.inf
        self._channel = rpc.open_channel(address, network.max_message_bytes, network.keepalive_s)
        self._client = rpc.Client(self._channel, pb.DESCRIPTOR.services_by_name["Experience"], self.peer)
        info = self._client.unary("Info", pb.InfoRequest(), pb.InfoReply, config.faults.start_timeout_s, wait=True)
        rpc.check_protocol(info.protocol, self.peer)
        self.tcp_address = next((a for a in info.addresses if not a.startswith("unix:")), "")
        table = pb.TableDefinition(name=definition.name, settings=definition.pack())
        request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table)
        made = self._client.unary("EnsureTable", request, pb.EnsureTableReply, network.call_timeout_s)
        for change in made.changed:
            logger.warning("table %r at %s: %s", definition.name, self.peer, change)
        if not made.created:
            self._look_at_what_is_there(info, definition)
        self._stream = SampleStream(
            self._channel,
            self.peer,
            definition.name,
            draw_seed(config.seed, first_version),
            by_reference=address.startswith("unix:"),
            compress=crosses_network(address),
            headers=True,
            patience_s=self._patience_s,
        )
        columns = definition.signature.columns.items()
        self._without_rows = {name for name, spec in columns if spec.window_rows == "first"}

    def fetch(
        self, table: Replay, note: Note, rounds: queue.SimpleQueue[CompleteRound | None] | None
    ) -> AsyncFetch | LagFetch:
        """What the source calls; `rounds` for a fixed lag."""
        max_items = self._stream.opened.max_items
        if rounds is None:
            return AsyncFetch(self._stream, table, max_items, self._without_rows, note)
        return LagFetch(self._stream, table, max_items, self._without_rows, note, rounds, self._patience_s)

    def _look_at_what_is_there(self, info: pb.InfoReply, definition: ReplayDefinition) -> None:
        """Items of before this learner: in async pace they are learned from, too."""
        found = self._mine(info).figures
        if definition.staged and found["inserted"]:
            raise ConfigError(
                f"table {self._name!r} at {self.peer} had {found['inserted']:,.0f} items of other rounds: with a fixed "
                "policy lag a run, a resumed one too, begins with an empty table. Give another --data-dir, or remove "
                "that one first"
            )
        if found["items"]:
            logger.warning(
                "table %r at %s holds %d items of before: they are learned from", self._name, self.peer, found["items"]
            )

    def ask(self) -> tuple[dict[str, float], list[Waiter]]:
        """The table's figures and who waits for it, within `ASK_TIMEOUT_S`; for one thread, and not the loop's."""
        try:
            info = self._client.unary("Info", pb.InfoRequest(), pb.InfoReply, ASK_TIMEOUT_S)
        except ShoalError as error:
            self._away_since_s = min(self._away_since_s, self._clock.now_s())
            reason = f"{error}; after {self._patience_s:g} s without it the run ends"
            waited_s = self._clock.now_s() - self._away_since_s
            return {}, [Waiter(self._name, "the learner", "the replay server", waited_s, reason)]
        self._away_since_s = math.inf
        table = self._mine(info)
        waiters = [Waiter(self._name, w.who, w.what, w.waited_s, w.reason) for w in table.waiters]
        return {**table.figures, "torn": self._stream.torn}, waiters

    def _mine(self, info: pb.InfoReply) -> pb.TableInfo:
        return next((table for table in info.tables if table.name == self._name), pb.TableInfo())

    def close(self) -> None:
        """End the stream and the connection."""
        self._stream.close()
        self._channel.close()
