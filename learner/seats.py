"""Who sits on which slot, and what came from there: for people, and to tell a slot's lives apart. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from core.types import UnrollHeader
from learner.status import Seated

RATE_S = 10.0
"""An actor's speed is that of about so many seconds."""
MOST_KEPT = 256


class _Mark(NamedTuple):
    """What an actor had done by then: `busy_s` is acting and every wait."""

    at_s: float
    env_steps: int
    act_s: float
    busy_s: float


@dataclass
class ActorProcess:
    """One life of an actor. `state` is joining, acting or lost; `restarts` counts the lives before it on its slot."""

    slot: int
    incarnation: int
    host: str
    pid: int
    joined_s: float
    state: str = "joining"
    lease: int = 0
    restarts: int = 0
    version: int = -1
    _marks: deque[_Mark] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    def __post_init__(self) -> None:
        self._marks.append(_Mark(self.joined_s, 0, 0.0, 0.0))

    def seen(self, header: UnrollHeader, now_s: float) -> None:
        """An unroll of it arrived."""
        self.version, newest = header.version, self._marks[-1]
        busy_s = header.act_s + header.wait_weights_s + header.wait_acks_s
        done = newest.env_steps + header.env_steps, newest.act_s + header.act_s, newest.busy_s + busy_s
        self._marks.append(_Mark(now_s, *done))
        while len(self._marks) > 2 and now_s - self._marks[1].at_s >= RATE_S:
            self._marks.popleft()

    def seated(self, now_s: float) -> Seated:
        """It, for people. Its speed is that of late, silence included."""
        first, newest = self._marks[0], self._marks[-1]
        busy_s = newest.busy_s - first.busy_s
        return Seated(
            slot=self.slot,
            host=self.host,
            pid=self.pid,
            state=self.state,
            restarts=self.restarts,
            env_steps=newest.env_steps,
            env_steps_per_s=(newest.env_steps - first.env_steps) / max(now_s - first.at_s, 1e-9),
            act_share=(newest.act_s - first.act_s) / busy_s if busy_s else None,
            version=self.version,
            silent_s=now_s - newest.at_s if self.version >= 0 else None,
        )
