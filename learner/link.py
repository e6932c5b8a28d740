"""The learner's connection to a replay server: the table it wants there, its sample stream, and what is told of it."""

from __future__ import annotations

import logging
import math
import queue
from collections.abc import Sequence
from dataclasses import replace

from core import rpc
from core.clock import Clock, SystemClock
from core.compression import crosses_network
from core.config import Config
from core.errors import ConfigError, ShoalError
from core.sampling import SampleStream
from core.specs import Signature
from core.types import Lag, Plan, Replay
from learner.checkpoints import Start
from learner.coordinator import CompleteRound
from learner.pace import Drawing, draw_seed
from learner.replay import AsyncFetch, LagFetch, Note
from learner.status import Waiter
from protos import experience_pb2 as pb
from replay_server.definition import ReplayDefinition
from replay_server.settings import MOST_DRAW_BYTES, window_bytes
from replay_server.settings import plan as parts_of
from replay_server.staging import MOST_BYTES

ASK_TIMEOUT_S = 2.0
TABLE_TIMEOUT_S = 120.0
"""For a manifest, or the way back to one: a large table on a slow disk takes its time."""
MESSAGE_SHARE = 0.9
"""Of the largest message, for a draw's items; headers come beside them."""
INTERVALS_KEPT = 2
"""Between checkpoints: the newest may turn out to be torn."""
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
    rounds_between: int = 0,
) -> ReplayDefinition:
    """The table that a plan asks for. With a fixed lag the learner counts and the server only waits for rounds.

    A draw has as many batches as a round needs and a message holds, at least one. With `rounds_between` checkpoints the
    table keeps what is evicted after the one before the newest: a rollback to either finds everything.
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
    definition = replace(definition, max_batches=max(1, min(batches, fits)))
    spare_rows = INTERVALS_KEPT * _cells_of(definition, rounds_between) if table.evict and rounds_between else 0
    return replace(definition, spare_rows=spare_rows)


def _cells_of(definition: ReplayDefinition, rounds: int) -> int:
    """The most that so many rounds take of the ring: all begin a block, and a block may skip the ring's end."""
    signature, layout = definition.signature, parts_of(definition).layout
    block_rows = layout.block_rows_for(signature.max_rows, signature.max_envs, definition.writers)
    unrolls = (block_rows - layout.repeated - 1) // signature.max_rows
    blocks = definition.writers * (math.ceil(rounds / unrolls) + 1) + 1
    return blocks * block_rows * signature.max_envs


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
    """Makes the table at once and keeps the connection until `close`.

    A learner that goes on from a reset point `start`s there, and the table goes back to it; `exact`: with all it had.
    """

    def __init__(
        self,
        address: str,
        config: Config,
        definition: ReplayDefinition,
        start: Start,
        incarnation: int = 0,
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
        request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table, learner=incarnation)
        made = self._client.unary("EnsureTable", request, pb.EnsureTableReply, network.call_timeout_s)
        if definition.staged and not made.created and not made.kept and start.goes_on:
            made = self._make_anew(request, network.call_timeout_s)
        for change in made.changed:
            logger.warning("table %r at %s: %s", definition.name, self.peer, change)
        self.kept, self.exact, self._drawing = made.kept, start.exact, Drawing(draw_seed(config.seed, start.version))
        if definition.staged:
            self._begin(made, start, info)
        elif not made.created:
            self._look_at_what_is_there(info)
        self._stream = SampleStream(
            self._channel,
            self.peer,
            definition.name,
            self._drawing.seed,
            first_draw=self._drawing.next_draw,
            learner=incarnation,
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
        return LagFetch(
            *(self._stream, table, max_items, self._without_rows, note, rounds, self._patience_s), self._drawing
        )

    def checkpoint(self, round_: int, keep: Sequence[int] = ()) -> bool:
        """Have the table write what `round_` goes back to; False where it is kept in memory only.

        What it wrote for the rounds to `keep` stays: checkpoints go back to them. A server that is away is waited for.
        Raises what it answers, and DeadlineError where it stays away.
        """
        if self.kept:
            request = pb.CheckpointRequest(protocol=rpc.PROTOCOL, table=self._name, round=round_, keep_rounds=keep)
            self._client.unary("Checkpoint", request, pb.CheckpointReply, TABLE_TIMEOUT_S, wait=True)
        return self.kept

    def _make_anew(self, request: pb.EnsureTableRequest, timeout_s: float) -> pb.EnsureTableReply:
        """A table in a server's memory cannot go back to the checkpoint; an empty one can be gone on with."""
        drop = pb.DropTableRequest(protocol=rpc.PROTOCOL, table=self._name)
        self._client.unary("DropTable", drop, pb.DropTableReply, timeout_s)
        return self._client.unary("EnsureTable", request, pb.EnsureTableReply, timeout_s)

    def _begin(self, made: pb.EnsureTableReply, start: Start, info: pb.InfoReply) -> None:
        """With a fixed lag: an empty table, or one that goes back to where the checkpoint was made."""
        if start.drawing is not None and not made.created and made.kept:
            request = pb.RollbackRequest(protocol=rpc.PROTOCOL, table=self._name, round=start.version)
            back = self._client.unary("Rollback", request, pb.RollbackReply, TABLE_TIMEOUT_S)
            self._drawing, self.exact = start.drawing, start.exact and not back.lost_items
            if back.lost_items:
                logger.warning("table %r at %s lost %d items that it had", self._name, self.peer, back.lost_items)
        elif not made.created and self._mine(info).figures["inserted"]:
            raise ConfigError(
                f"table {self._name!r} at {self.peer} had {self._mine(info).figures['inserted']:,.0f} items of other "
                "rounds: with a fixed policy lag a run begins with an empty table, or goes on from a checkpoint that "
                "the table was written for. Give another --data-dir, or remove that one first"
            )
        elif start.goes_on:
            logger.warning("table %r at %s is empty: the run goes on without what was in it", self._name, self.peer)
            self.exact = False

    def _look_at_what_is_there(self, info: pb.InfoReply) -> None:
        """In async pace, items of before this learner are learned from, too."""
        found = self._mine(info).figures
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
