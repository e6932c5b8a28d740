"""Whole episodes with a fixed policy: what `eval_return` and `shoal eval` mean. Called by the learner and the face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core import envs as vector
from core.errors import EnvironmentFailedError
from core.specs import EnvSpec
from core.types import Episode, Policy


def evaluate(
    policy: Policy,
    envs: vector.Env,
    spec: EnvSpec,
    episodes: int,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Play `episodes` episodes and return them; fewer where `stopped()`, asked at every row, came true.

    Every environment is given its share beforehand and plays it to the end, so short episodes are not favoured.
    """
    num_envs = envs.num_envs
    left = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    total, length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    ended = np.zeros(num_envs, bool)
    finished: list[Episode] = []
    obs, _ = envs.reset(seed=seed)
    memory = None
    while left.any() and not stopped():
        step = policy(np.asarray(obs, spec.observation.dtype), memory)
        memory = step.memory
        obs, reward, terminated, truncated, _ = envs.step(vector.clip_action(step.action, spec.action))
        total += np.where(ended, 0.0, reward)
        length += ~ended
        if memory is not None:
            memory = memory * ~ended[:, None]  # the row on which an environment resets hands nothing on
        ended = terminated | truncated
        for b in np.flatnonzero(ended):
            if left[b] and not np.isfinite(total[b]):
                raise EnvironmentFailedError(
                    f"environment {spec.id!r} gave a return of {total[b]} in an evaluation episode; its seed was {seed}"
                )
            if left[b]:
                finished.append(Episode(float(total[b]), int(length[b])))
                left[b] -= 1
            total[b], length[b] = 0.0, 0
    return finished
