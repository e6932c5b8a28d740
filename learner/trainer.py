"""The training loop: a delivery, its updates, the next version; evaluation, checkpoint and a line of progress between.

Runs on the process's main thread. It knows the algorithm by its contract alone and the services by what it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from core.algorithms.contract import Algorithm
from core.config import Config
from core.errors import DivergedError
from core.rl.optim import Flat
from core.types import Context, Result
from learner.evaluation import Evaluator
from learner.progress import Progress
from learner.recorder import Recorder
from learner.source import Delivery, Source, timed_next
from learner.status import Status

LEARNER_STREAM = 1 << 32
"""Second word of the learner's Philox key; slots are smaller, so its draws are no actor's."""
POLL_S = 0.5
INTERRUPTED = "interrupted"
"""The reason of `stop` that lets nothing more begin."""


class Trainer:
    """One run's loop. `publish(version, env_steps)` hands weights on; `save()` writes a checkpoint.

    `before_publish(version)` is told of every version after an update, before anybody can act with it. `save_every_s`:
    seconds between two checkpoints that are made by the clock.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        network: Any,
        flat: Flat,
        state: Any,
        source: Source,
        progress: Progress,
        recorder: Recorder,
        evaluator: Evaluator,
        *,
        publish: Callable[[int, int], None],
        before_publish: Callable[[int], None],
        save: Callable[[], None],
        save_every_s: float,
        status: Callable[[], Status],
    ) -> None:
        self._config, self._algorithm, self._network, self._flat = config, algorithm, network, flat
        self._state, self._source, self._progress = state, source, progress
        self._recorder, self._evaluator = recorder, evaluator
        self._publish, self._before_publish, self._save, self._status = publish, before_publish, save, status
        self._stop: str | None = None
        if not progress.next_evaluation:
            self._plan_evaluation()
        self._save_every_s = save_every_s
        self._next_checkpoint_s = progress.now_s() + save_every_s
        self.first_update_unix_s: float | None = None
        self.solved_unix_s: float | None = None

    def _plan_evaluation(self) -> None:
        every = self._config.evaluation.every_env_steps
        self._progress.next_evaluation = (self._progress.env_steps // every + 1) * every

    def stop(self, reason: str) -> None:
        """End after the round that runs now; safe in a signal handler."""
        self._stop = reason
        self._source.wake()

    def run(self) -> str:
        """Train until the budget, the target or `stop`; returns why it ended. Raises DivergedError."""
        self._publish(self._progress.version, self._progress.env_steps)
        self._between_rounds()  # what the process that ended may not have come to
        while self._stop is None:
            delivery, wait_s = timed_next(self._source, POLL_S)
            if delivery is None:
                self._progress.waited(wait_s)
                self._status()  # raises what went wrong beside training
            else:
                self._take(delivery, wait_s)
            self._recorder.tick(self._status)
            self._between_rounds()
        return self._stop

    def _take(self, delivery: Delivery, wait_s: float) -> None:
        progress = self._progress
        progress.received(delivery.headers, wait_s, delivery.limiter_wait_s)
        progress.settle((*delivery.headers, *delivery.dropped))
        self._recorder.received(delivery.headers)
        if not delivery.is_round:
            return
        if delivery.batch is not None:
            started_s = time.perf_counter()
            context = Context(self._rng(), progress.version, progress.env_steps, progress.budget_env_steps)
            result = self._algorithm.update(self._network, self._state, delivery.batch, context)
            _check_finite(result, delivery, progress.version)
            if result.priorities is not None and delivery.keys is not None:  # before the version that asks for more
                self._source.set_priorities(delivery.keys, result.priorities)
            progress.updated(result, time.perf_counter() - started_s)
            if self.first_update_unix_s is None:
                self.first_update_unix_s = time.time()
        progress.version += 1
        self._before_publish(progress.version)
        self._publish(progress.version, progress.env_steps)

    def _rng(self) -> np.random.Generator:
        key = np.array([self._config.seed, LEARNER_STREAM], np.uint64)
        counter = np.array([0, 0, 0, self._progress.version], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def _between_rounds(self) -> None:
        progress = self._progress
        if progress.env_steps >= progress.next_evaluation and self._config.target_return is not None:
            self._plan_evaluation()
            self.evaluate()
            if progress.is_best:
                self._save()
            if progress.solved_at_env_steps is not None:
                self.solved_unix_s = time.time()
                self._stop = self._stop or "solved"
        if progress.env_steps >= progress.budget_env_steps:
            self._stop = self._stop or "budget"
        if progress.now_s() >= self._next_checkpoint_s and progress.updates:
            self._save()
            self._next_checkpoint_s = progress.now_s() + self._save_every_s

    def evaluate(self) -> None:
        """Evaluate the current params, each time with fresh seeds, and note the result; `stop` cuts it short."""
        progress = self._progress
        number = progress.evaluations
        found = self._evaluator.run(self._flat, progress.env_steps, lambda: self._stop == INTERRUPTED, number)
        if found is None:
            return
        mean_return, took_s = found
        progress.evaluated(mean_return, took_s, self._config.target_return)
        self._recorder.evaluation(mean_return, self._config.evaluation.episodes, took_s)


def _check_finite(result: Result, delivery: Delivery, round_: int) -> None:
    bad = {name: value for name, value in result.metrics.items() if not math.isfinite(value)}
    if bad:
        slots, figures = sorted({h.slot for h in delivery.headers}), ", ".join(f"{k} = {v}" for k, v in bad.items())
        raise DivergedError(
            f"round {round_}: {figures} is not finite (unrolls of slots {slots}); "
            "the last checkpoint is kept; try a lower learning_rate or max_grad_norm, or smaller rewards"
        )
