"""Where a run stands: counters, times and rates, fed by the training loop. Pure but for the clock it is given."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.types import Result, UnrollHeader
from learner.bottleneck import Shares, Verdict, judge

EPISODES = 100
"""mean_return is over so many of the newest episodes."""


SETTLE_DELIVERIES = 3
"""After an evaluation so many deliveries count for no speed: actors and prefetch worked ahead while it took place."""


SHORTEST_WINDOW_S = 0.05
"""Less says nothing of a speed."""


LATELY_S = 30.0
"""What holds a run back now is judged over so long: an actor that has joined shows soon."""


@dataclass
class Times:
    """Seconds spent, by whom and on what."""

    wall_s: float = 0.0
    evaluation_s: float = 0.0
    wait_data_s: float = 0.0
    update_s: float = 0.0
    limiter_s: float = 0.0
    act_s: float = 0.0
    wait_weights_s: float = 0.0
    wait_acks_s: float = 0.0

    def minus(self, other: Times) -> Times:
        """What was spent since `other`."""
        return Times(**{name: value - getattr(other, name) for name, value in vars(self).items()})


_KEPT = (
    *("env_steps", "updates", "version", "episodes", "max_staleness", "eval_return", "evaluated_version"),
    *("evaluations", "next_evaluation", "solved_at_env_steps", "resumes"),
)


@dataclass
class Progress:
    """Counters of one run; `started_s` is when the first batch came."""

    now_s: Callable[[], float]
    budget_env_steps: int
    env_steps: int = 0
    updates: int = 0
    version: int = 0
    resumes: int = 0
    """How often a learner went on from a checkpoint."""
    episodes: int = 0
    staleness: float | None = None
    max_staleness: int = 0
    eval_return: float | None = None
    solved_at_env_steps: int | None = None
    algorithm: dict[str, float] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    started_s: float | None = None
    settled: dict[int, int] = field(default_factory=dict)
    _returns: deque[float] = field(default_factory=lambda: deque(maxlen=EPISODES))
    _lengths: deque[int] = field(default_factory=lambda: deque(maxlen=EPISODES))
    evaluated_version: int | None = None
    evaluations: int = 0
    next_evaluation: int = 0
    """The env steps from which on the next one is due."""
    is_best: bool = False
    _best: float = -math.inf
    _since: tuple[Times, float, int] = field(default_factory=lambda: (Times(), 0.0, 0))
    _lately: deque[Times] = field(default_factory=lambda: deque([Times()]))
    _settle: int = 1
    _measured_s: float = 0.0
    _measured_env_steps: int = 0
    _segment: tuple[float, int] | None = None
    _started_env_steps: int = 0

    def to_plain(self) -> dict[str, Any]:
        """All that counts on after a resume, for JSON; times begin anew."""
        plain = {name: getattr(self, name) for name in _KEPT}
        best = None if self._best == -math.inf else self._best
        return {**plain, "best": best, "returns": list(self._returns), "lengths": list(self._lengths)}

    def restore(self, plain: Mapping[str, Any], *, exact: bool = True) -> None:
        """The inverse. Of an inexact resume evaluations are planned anew: its settings may be others."""
        for name in _KEPT:
            setattr(self, name, plain[name])
        self._best = -math.inf if plain["best"] is None else plain["best"]
        self._returns.extend(plain["returns"])
        self._lengths.extend(plain["lengths"])
        self.resumes += 1
        if not exact:
            self.next_evaluation, self.solved_at_env_steps = 0, None

    def received(self, headers: Sequence[UnrollHeader], wait_s: float, limiter_s: float) -> None:
        """Unrolls came in after a wait."""
        first = self.started_s is None
        if first:
            self.started_s = self.now_s()
        else:
            self.times.wait_data_s += wait_s
            self.times.limiter_s += limiter_s
        for header in headers:
            self.env_steps += header.env_steps
            self.episodes += len(header.episodes)
            self._returns.extend(e.total_reward for e in header.episodes)
            self._lengths.extend(e.length for e in header.episodes)
            self.times.act_s += header.act_s
            self.times.wait_weights_s += header.wait_weights_s
            self.times.wait_acks_s += header.wait_acks_s
        if headers:
            lags = [max(0, self.version - h.version) for h in headers]
            self.staleness = sum(lags) / len(lags)
            self.max_staleness = max(self.max_staleness, *lags)
        if first:
            self._started_env_steps = self.env_steps
        if self._settle:
            self._settle -= 1
            self._segment = None if self._settle else (self.now_s(), self.env_steps)

    def settle(self, headers: Iterable[UnrollHeader]) -> None:
        """These unrolls are learned from in this round, or were dropped: each slot's newest one is in `settled`."""
        for header in headers:
            self.settled[header.slot] = max(header.round, self.settled.get(header.slot, -1))

    def waited(self, wait_s: float) -> None:
        """Nothing came for so long."""
        if self.started_s is not None:
            self.times.wait_data_s += wait_s

    def updated(self, result: Result, update_s: float) -> None:
        """A round's updates were done."""
        self.updates += result.updates
        self.algorithm = result.metrics
        self.times.update_s += update_s

    def evaluated(self, mean_return: float, took_s: float, target_return: float | None) -> None:
        """An evaluation of the current params."""
        self.eval_return, self.evaluated_version = mean_return, self.version
        self.evaluations += 1
        self.is_best, self._best = mean_return > self._best, max(mean_return, self._best)
        self.times.evaluation_s += took_s
        self._measured_s, self._measured_env_steps = self._measured(without_s=took_s)
        self._segment, self._settle = None, SETTLE_DELIVERIES
        if target_return is not None and mean_return >= target_return and self.solved_at_env_steps is None:
            self.solved_at_env_steps = self.env_steps

    @property
    def mean_return(self) -> float | None:
        """Mean return of the newest episodes; None before the first ended."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    @property
    def mean_length(self) -> float | None:
        """Mean length of the newest episodes."""
        return sum(self._lengths) / len(self._lengths) if self._lengths else None

    @property
    def training_s(self) -> float:
        """Wall time since the first batch, evaluation left out."""
        now = self._spent()
        return now.wall_s - now.evaluation_s if self.started_s is not None else 0.0

    def _spent(self) -> Times:
        """The times so far; the wall time is brought up to now."""
        if self.started_s is not None:
            self.times.wall_s = self.now_s() - self.started_s
        return Times(**vars(self.times))

    def _measured(self, without_s: float = 0.0) -> tuple[float, int]:
        """Seconds and env steps that count for speeds: between deliveries, evaluations and their wake left out."""
        if self._segment is None:
            return self._measured_s, self._measured_env_steps
        since_s, since_env_steps = self._segment
        measured_s = self._measured_s + max(0.0, self.now_s() - without_s - since_s)
        return measured_s, self._measured_env_steps + self.env_steps - since_env_steps

    @property
    def env_steps_per_s(self) -> float | None:
        """Env steps a second of training; where evaluations leave nothing to measure, of wall time with them."""
        measured_s, env_steps = self._measured()
        if measured_s > 0 and env_steps > 0:
            return env_steps / measured_s
        wall_s = self.training_s + self.times.evaluation_s
        return (self.env_steps - self._started_env_steps) / wall_s if wall_s > 0 else None

    def window(self) -> tuple[float | None, Shares]:
        """Env steps a second (None: nothing that counts) and shares of time since the last call."""
        now, (before, before_s, before_env_steps) = self._spent(), self._since
        measured_s, env_steps = self._measured()
        took_s = measured_s - before_s
        rate = (env_steps - before_env_steps) / took_s if took_s >= SHORTEST_WINDOW_S else None
        self._since = (now, measured_s, env_steps)
        self._lately.append(now)
        while len(self._lately) > 2 and now.wall_s - self._lately[1].wall_s >= LATELY_S:
            self._lately.popleft()
        return rate, _shares(now.minus(before))

    def verdict_of_late(self) -> Verdict:
        """What has held the run back in the last LATELY_S seconds before the newest `window`."""
        return judge(_shares(self._lately[-1].minus(self._lately[0])))

    def verdict(self) -> Verdict:
        """What held the whole run back so far."""
        return judge(_shares(self._spent()))


def _shares(spent: Times) -> Shares:
    window_s = max(spent.wall_s - spent.evaluation_s, 1e-9)
    acting_s = max(spent.act_s + spent.wait_weights_s + spent.wait_acks_s, 1e-9)
    return Shares(
        learner_waits=min(1.0, spent.wait_data_s / window_s),
        actors_act=spent.act_s / acting_s,
        actors_wait_weights=spent.wait_weights_s / acting_s,
        actors_wait_acks=spent.wait_acks_s / acting_s,
        limiter_holds=min(1.0, spent.limiter_s / max(spent.wait_data_s, 1e-9)),
    )
