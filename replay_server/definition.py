"""What a replay table is, as EnsureTable carries it. Made by the learner from a plan, or by a ReplayClient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import msgpack

from core.errors import CodecError, ConfigError
from core.specs import Signature
from replay_server.storage import FILE_NAME

Sampler = Literal["uniform", "prioritised"]

ON_DISK = (
    *("signature", "capacity", "capacity_bytes", "before", "after", "spare_rows"),
    *("sampler", "max_times_sampled", "staged"),
)
"""Fields that a table's files are made for: another value needs another table. All the rest may change in place."""

MOST = 1 << 40
"""Of any whole number."""
_KINDS = {"str": (str,), "Sampler": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
_GIVE = {"bool": "True or False", "int": f"a whole number up to {MOST:,}", "float": "a number"}


@dataclass(frozen=True)
class ReplayDefinition:
    """A replay table. Sizes are in items (valid rows with a window) unless a name says otherwise.

    `before` and `after` are the rows of an item's window in front of its row and from it on. `max_batches` is how many
    batches of `batch_size` one draw may have. `samples_per_insert` 0 leaves `min_size` as the only limit;
    `error_buffer` 0 lets the server choose one that cannot deadlock. `writers` is how many lives are expected to
    insert at once. With `staged`, unrolls wait until a draw applies their round (lag mode).

    `sampler` "prioritised" draws with probability priority^`priority_exponent` / sum; the signature may then have a
    column `priority` (float32, +inf: not known yet, takes the largest so far), which is not handed out. An item leaves
    after `max_times_sampled` draws (0: never). `capacity_bytes` 0 leaves the bound to `capacity`. With `evict` False a
    full table takes nothing more. `spare_rows` are kept beyond the capacity, so that a rollback finds what it needs.
    """

    name: str
    signature: Signature
    capacity: int
    batch_size: int
    max_batches: int
    min_size: int
    samples_per_insert: float
    before: int
    after: int
    writers: int
    error_buffer: float = 0.0
    sampler: Sampler = "uniform"
    priority_exponent: float = 0.6
    max_times_sampled: int = 0
    capacity_bytes: int = 0
    evict: bool = True
    staged: bool = False
    spare_rows: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError where a field is none of its kind: it may come from anybody, and is computed with."""
        ConfigError.raise_if(_problems(self))

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, numbers and strings, for msgpack and JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "signature": self.signature.to_plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ReplayDefinition:
        """The inverse of `to_plain`. Raises CodecError."""
        try:
            return cls(**{**plain, "signature": Signature.from_plain(plain["signature"])})
        except (TypeError, ValueError, KeyError, AttributeError, ConfigError) as error:
            raise CodecError(f"a table definition cannot be read: {error}") from error

    def pack(self) -> bytes:
        """Msgpack."""
        packed: bytes = msgpack.packb(self.to_plain())
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> ReplayDefinition:
        """The inverse. Raises CodecError."""
        try:
            plain = msgpack.unpackb(packed)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise CodecError(f"a table definition is not msgpack: {error}") from error
        return cls.from_plain(plain)

    def differences(self, former: ReplayDefinition) -> dict[str, str]:
        """What `self` changes in `former`: field -> "old -> new"."""
        changed = {}
        for f in fields(self):
            old, new = getattr(former, f.name), getattr(self, f.name)
            if old != new:
                changed[f.name] = "another signature" if f.name == "signature" else f"{old} -> {new}"
        return changed


def _problems(definition: ReplayDefinition) -> Iterator[str]:
    for field in fields(definition):
        value, kind = getattr(definition, field.name), str(field.type)
        if field.name == "signature":
            yield from value.problems()
        elif type(value) not in _KINDS[kind] or (kind == "int" and value > MOST):
            yield f"{field.name} is {str(value)[:80]} ({type(value).__name__}); give {_GIVE.get(kind, 'text')}"
        elif field.name == "name" and not FILE_NAME.fullmatch(value):
            yield f"{value!r} cannot be a table's name: use letters, digits, '_', '-' and '.', at most 200"
