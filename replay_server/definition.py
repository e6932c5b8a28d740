"""What a replay table is, as EnsureTable carries it. Made by the learner from an algorithm's plan."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgpack

from core.errors import CodecError
from core.specs import Signature


@dataclass(frozen=True)
class ReplayDefinition:
    """A replay table. Sizes are in items; `error_buffer` 0 lets the server choose one that cannot deadlock."""

    name: str
    signature: Signature
    capacity: int
    batch_size: int
    batches_per_round: int
    min_size: int
    samples_per_insert: float
    before: int
    after: int
    writers: int
    error_buffer: float = 0.0

    def pack(self) -> bytes:
        """Msgpack."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        packed: bytes = msgpack.packb({**plain, "signature": self.signature.to_plain()})
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> ReplayDefinition:
        """The inverse. Raises CodecError."""
        try:
            plain = msgpack.unpackb(packed)
            return cls(**{**plain, "signature": Signature.from_plain(plain["signature"])})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CodecError(f"a table definition cannot be read: {error}") from error
