"""Lag mode: unrolls wait until the learner applies their round, then go into the table in the order of slots.

Pure, one thread. In memory only: what is here is not acknowledged, and is sent again to a server that was restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.errors import ItemRejectedError
from core.types import Columns, UnrollHeader
from replay_server.dedupe import Life
from replay_server.table import Size

MOST_BYTES, MOST_UNROLLS = 1 << 30, 1 << 16
MOST_OF_A_SLOT = 16
"""Rounds that a slot may be ahead of the learner; lag mode lets it be `lag` + 1."""


@dataclass
class Staged:
    """An unroll, and which (incarnation, seq) sent it."""

    header: UnrollHeader
    columns: Columns
    size: Size
    sender: tuple[int, int]
    nbytes: int


class Staging:
    """By round and slot.

    `put` inserts an unroll, `record` notes that a life's seq is applied or will never be. `end` ends a life that ended
    before, again: it was needed once more for what was staged of it.
    """

    def __init__(
        self,
        put: Callable[[int, int, UnrollHeader, Columns, Size], None],
        record: Callable[[int, int, UnrollHeader], None],
        end: Callable[[int, int], None],
    ) -> None:
        self._put, self._record, self._end = put, record, end
        self._unrolls: dict[tuple[int, int], Staged] = {}
        self._sent: dict[Life, int] = {}
        self._over: set[Life] = set()  # lives that ended while unrolls of theirs were here
        self._applied: dict[int, int] = {}
        self._last_round = -1
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._unrolls)

    def begin(self, applied: Mapping[int, int]) -> None:
        """A table was recovered that holds rounds up to these, by slot: the newest may be there in part."""
        self._unrolls.clear()
        self._sent.clear()
        self._over.clear()
        self.nbytes = 0
        self._applied = dict(applied)
        self._last_round = max(applied.values(), default=0) - 1

    def sent(self, life: Life) -> int:
        """How many unrolls of a life are here."""
        return self._sent.get(life, 0)

    def is_over(self, round_: int, slot: int) -> bool:
        """Whether that slot's unroll was applied, or can no more be."""
        return round_ <= max(self._applied.get(slot, -1), self._last_round)

    def add(self, incarnation: int, seq: int, header: UnrollHeader, columns: Columns, size: Size) -> bool:
        """Keep it; False where it comes too late.

        The newest life's unroll of a slot and round counts: what that life sends next goes on behind it, not behind
        what the life before it had sent.
        """
        life, key = (header.slot, incarnation), (header.round, header.slot)
        if self.is_over(*key):
            if self.sent(life):
                raise ItemRejectedError(
                    f"slot {header.slot} sent round {header.round}, which is over, behind later ones"
                )
            self._record(incarnation, seq, header)
            return False
        if key in self._unrolls:
            self._pop(key)
        columns = {name: column.copy() for name, column in columns.items()}  # views would keep their whole message
        nbytes = sum(column.nbytes for column in columns.values())
        self._check_room(header, nbytes)
        self._unrolls[key] = Staged(header, columns, size, (incarnation, seq), nbytes)
        self.nbytes += nbytes
        self._sent[life] = self.sent(life) + 1
        self._end_those_over()
        return True

    def end_life(self, slot: int, incarnation: int) -> None:
        """It has ended; what is here of it still counts."""
        if self.sent((slot, incarnation)):
            self._over.add((slot, incarnation))

    def _end_those_over(self) -> None:
        """The last of their unrolls is in, or was replaced."""
        for life in [life for life in self._over if not self.sent(life)]:
            self._over.discard(life)
            self._end(*life)

    def slots_that_begin_anew(self, round_: int) -> set[int]:
        """Slots whose unroll of that round may begin a block: another life's, or one of environments that restarted."""
        restarted = {slot for (of, slot), staged in self._unrolls.items() if of == round_ and staged.header.restarted}
        return restarted | {slot for slot, _ in self._over}

    def headers(self) -> list[UnrollHeader]:
        """Of all that is here, by round and slot."""
        return [self._unrolls[key].header for key in sorted(self._unrolls)]

    def missing(self, round_: int, slots: Sequence[int]) -> list[int]:
        """The slots whose unrolls of that round are neither here nor applied."""
        return [slot for slot in self._open(round_, slots) if (round_, slot) not in self._unrolls]

    def apply(self, round_: int, slots: Sequence[int]) -> None:
        """Put a round's unrolls in, in the order of slots; what else there is of it and of earlier rounds is dropped.

        What was applied before is left out: a learner may ask again.
        """
        self._drop_before(round_)
        for slot in self._open(round_, sorted(slots)):
            staged = self._pop((round_, slot))
            self._put(*staged.sender, staged.header, staged.columns, staged.size)
            self._applied[slot] = round_
            self._record(*staged.sender, staged.header)
        self._last_round = max(self._last_round, round_)
        self._drop_before(round_ + 1)
        self._end_those_over()

    def _open(self, round_: int, slots: Sequence[int]) -> list[int]:
        return [slot for slot in slots if self._applied.get(slot, -1) < round_]

    def _drop_before(self, round_: int) -> None:
        for key in sorted(key for key in self._unrolls if key[0] < round_):
            staged = self._pop(key)
            self._record(*staged.sender, staged.header)

    def _pop(self, key: tuple[int, int]) -> Staged:
        staged = self._unrolls.pop(key)
        self.nbytes -= staged.nbytes
        life = key[1], staged.sender[0]
        self._sent[life] -= 1
        if not self._sent[life]:
            del self._sent[life]
        return staged

    def _check_room(self, header: UnrollHeader, nbytes: int) -> None:
        of_slot = sum(slot == header.slot for _, slot in self._unrolls)
        if len(self._unrolls) >= MOST_UNROLLS:
            raise ItemRejectedError(
                f"{len(self._unrolls):,} unrolls wait for their rounds, the limit is {MOST_UNROLLS:,}: use fewer actors"
            )
        if of_slot >= MOST_OF_A_SLOT:
            raise ItemRejectedError(
                f"slot {header.slot} has {of_slot} unrolls that wait for their rounds, the limit is {MOST_OF_A_SLOT}: "
                "wait until one is acknowledged"
            )
        if self.nbytes + nbytes > MOST_BYTES:
            raise ItemRejectedError(
                f"{self.nbytes:,} bytes wait for their rounds and {nbytes:,} more came, the limit is {MOST_BYTES:,}: "
                "use shorter unrolls or fewer actors"
            )
