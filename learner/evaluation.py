"""Greedy evaluation of frozen params on the learner's host, on the CPU, between two rounds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from core import envs as vector
from core.algorithms.contract import Algorithm
from core.config import Config
from core.evaluate import evaluate
from core.rl.optim import Flat, flatten
from core.specs import EnvSpec
from core.types import Task
from core.watchdog import Busy, watched

MAX_ENVS = 20


class Evaluator:
    """Plays `episodes` episodes with a copy of the params; its seeds are none of training's."""

    def __init__(self, config: Config, algorithm: Algorithm, spec: EnvSpec) -> None:
        self._config, self._algorithm, self._spec = config, algorithm, spec
        state = torch.random.get_rng_state()
        self._network = algorithm.network(spec)
        torch.random.set_rng_state(state)
        self._flat = flatten(self._network)
        self._envs: vector.Env | None = None

    def run(
        self, flat: Flat, env_steps: int, stopped: Callable[[], bool], number: int = 0
    ) -> tuple[float, float] | None:
        """(mean return, seconds it took); None where `stopped()` came true, which is asked at every row.

        `number` counts the run's evaluations: each has seeds of its own.
        """
        started_s = time.perf_counter()
        config, episodes = self._config, self._config.evaluation.episodes
        if self._envs is None:
            self._envs = vector.make(config.env, min(episodes, MAX_ENVS), config.env_kwargs, config.env_wrappers)
        self._flat.load(flat.snapshot())
        task = Task(config.seed, 0, 1, number, env_steps, config.env_steps, explore=False)
        seed = vector.seed_of(config.seed, number, vector.EVALUATION)
        policy = self._algorithm.policy(self._network, task)
        played = evaluate(policy, self._envs, self._spec, episodes, seed, stopped)
        if len(played) < episodes:
            return None
        return sum(e.total_reward for e in played) / len(played), time.perf_counter() - started_s

    def close(self) -> None:
        """Close the environments."""
        if self._envs is not None:
            self._envs.close()


def look_at_environment(config: Config) -> EnvSpec:
    """What the run's environment is; ends this process where it hangs when it is made. Raises ConfigError."""
    busy = Busy(lambda: f"the making of environment {config.env!r}")
    with watched(busy, config.faults.step_deadline_s), busy:
        envs = vector.make(config.env, 1, config.env_kwargs, config.env_wrappers)
        spec = vector.spec_of(config.env, envs)
        envs.close()
    return spec
