"""Environments for end-to-end tests; actor processes find them as `tests.e2e.envs:NAME`."""

from __future__ import annotations

import random
import resource
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

MODULE = "tests.e2e.envs"


class Row(NamedTuple):
    """What one row must be."""

    obs: tuple[float, float, float]
    reward: float
    discount: float
    valid: int


def uid_of(seed: int) -> int:
    """The name that an environment reset with `seed` bears."""
    return seed % 9973


def length_of(uid: int, episode: int) -> int:
    """Steps of an episode: 3 to 7."""
    return 3 + (uid + 7 * episode) % 5


def terminates(uid: int, episode: int) -> bool:
    """Half of the episodes terminate, half are truncated."""
    return (uid + episode) % 2 == 0


def rows_of(uid: int) -> Iterator[Row]:
    """The rows of an environment, written down without any environment."""
    episode = 0
    while True:
        length = length_of(uid, episode)
        for step in range(length):
            last = step == length - 1
            discount = 0.0 if last and terminates(uid, episode) else 1.0
            yield Row((uid, episode, step), 100.0 * episode + step + 1, discount, 1)
        yield Row((uid, episode, length), 0.0, 1.0, 0)
        episode += 1


class CountingEnv(gym.Env[Any, Any]):
    """Observes (its uid, the episode's number, the step's number), whatever is done."""

    observation_space = spaces.Box(0, 1e7, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.uid, self.episode, self.step_ = 0, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """The next episode; the first one after a seed is number 0."""
        super().reset(seed=seed)
        if seed is not None:
            self.uid, self.episode = uid_of(seed), -1
        self.episode, self.step_ = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One more."""
        self.step_ += 1
        over = self.step_ == length_of(self.uid, self.episode)
        terminated = over and terminates(self.uid, self.episode)
        return self._obs(), 100.0 * self.episode + self.step_, terminated, over and not terminated, {}

    def _obs(self) -> Any:
        return np.array([self.uid, self.episode, self.step_], np.float32)


class JitterEnv(CartPoleEnv):
    """CartPole whose steps take a random time that no seed governs."""

    def step(self, action: Any) -> Any:
        """Late by up to half a millisecond, now and then by much more."""
        threading.Event().wait(random.SystemRandom().choice((0.0, 0.0, 0.0005, 0.003)))
        return super().step(action)  # type: ignore[no-untyped-call]


class SlowEnv(CartPoleEnv):
    """CartPole whose steps sleep for 20 ms: long beside everything else, on a busy machine too."""

    def step(self, action: Any) -> Any:
        """Late."""
        threading.Event().wait(0.02)
        return super().step(action)  # type: ignore[no-untyped-call]


class BrokenEnv(CartPoleEnv):
    """CartPole that goes wrong at its 40th step: it raises, gives NaN, wants too much, or hangs (with the GIL, too).

    Or it hangs when an actor makes it, or in its first reset.
    """

    def __init__(self, how: str = "raise", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._how, self._steps = how, 0
        if how == "hang-when-made" and "actor" in sys.argv:
            threading.Event().wait()

    def reset(self, **kwargs: Any) -> Any:
        """Begin, or not."""
        if self._how == "hang-in-reset":
            threading.Event().wait()
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Fine, until it is not."""
        self._steps += 1
        obs, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        if self._steps == 40 and self._how == "raise":
            raise RuntimeError("the simulator lost its licence")
        if self._steps == 40 and self._how == "obs":
            obs = np.full_like(obs, np.nan)
        if self._steps == 40 and self._how == "memory":
            resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, resource.RLIM_INFINITY))
            np.ones(1 << 29)
        if self._steps == 40 and self._how == "hang":
            threading.Event().wait()
        if self._steps == 40 and self._how == "hang-in-c":
            sum(range(1 << 62))
        if self._how == "reward":
            reward = 3e38
        return obs, reward, terminated, truncated, info


class ShownEnv(gym.Env[Any, Any]):
    """Shows which of 8 actions is right, 16 times: 2 by chance, 16 once it is learned, and that stays learned."""

    observation_space = spaces.Box(0, 1, (8,), np.float32)
    action_space = spaces.Discrete(8)

    def _show(self) -> Any:
        self._right = self.np_random.integers(8)
        return np.eye(8, dtype=np.float32)[self._right]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin."""
        super().reset(seed=seed)
        self._step = 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        """1 for the action that was shown."""
        reward = float(action == self._right)
        self._step += 1
        return self._show(), reward, self._step == 16, False, {}


ENVS: dict[str, Any] = {
    "Counting-v0": CountingEnv,
    "Jitter-v0": JitterEnv,
    "Slow-v0": SlowEnv,
    "Broken-v0": BrokenEnv,
    "Shown-v0": ShownEnv,
}
for name, env in ENVS.items():
    gym.register(name, env, max_episode_steps=None if env is CountingEnv else 500, disable_env_checker=True)
