"""What a joining actor is told: everything. Made by the learner, carried by Join as msgpack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from core.errors import CodecError
from core.plugins import modules_of


@dataclass(frozen=True)
class RunSpec:
    """One run as an actor sees it.

    `lag` is None in async mode; `slots` is the number of actors asked for; `first_version` is the oldest one that this
    learner has (not 0 after a resume). In the rounds that are multiples of `restart_every_rounds` (0: in none) all
    environments begin anew.
    """

    algorithm: str
    settings: Mapping[str, Any]
    env: str
    env_kwargs: Mapping[str, Any]
    env_wrappers: Sequence[str]
    imports: Sequence[str]
    envs_per_actor: int
    slots: int
    seed: int
    budget_env_steps: int
    lag: int | None
    first_version: int
    restart_every_rounds: int
    table: str
    manifest: str
    window_chunks: int
    max_chunk_bytes: int
    max_message_bytes: int
    keepalive_s: float
    learner_patience_s: float
    step_deadline_s: float | None

    @property
    def modules(self) -> list[str]:
        """What an actor has to import: plugins, and what has the environments and wrappers that are not registered."""
        return modules_of(self.imports, (self.env, *self.env_wrappers))

    def version_of(self, round_: int) -> int | None:
        """The version that acts in a round; None: the newest."""
        return None if self.lag is None else max(self.first_version, round_ - self.lag)

    def restarts(self, round_: int) -> bool:
        """Whether environments begin anew in that round."""
        return self.restart_every_rounds > 0 and round_ % self.restart_every_rounds == 0

    def pack(self) -> bytes:
        """Msgpack."""
        packed: bytes = msgpack.packb(asdict(self))
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> RunSpec:
        """The inverse. Raises CodecError."""
        try:
            return cls(**msgpack.unpackb(packed))
        except (TypeError, ValueError) as error:
            raise CodecError(f"the run description of the learner cannot be read: {error}") from error
