"""Atari through ale-py's own vector environment: its preprocessing as arguments, true rewards, lost lives told apart.

Arguments (`env_kwargs`) are ale-py's: frameskip, img_height, img_width, stack_num, grayscale, maxpool, noop_max,
use_fire_reset, repeat_action_probability (sticky actions), full_action_space, num_threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from core.errors import ConfigError
from core.types import Array

PREFIX = "ALE/"
LIFE_LOST = "life_lost"
"""Key of the info: flags [B] of environments that lost a life and go on."""


def register() -> None:
    """Make the games known to gymnasium. Raises ConfigError without ale-py."""
    try:
        gym.register_envs(importlib.import_module("ale_py"))
    except ImportError as error:
        raise ConfigError(f"Atari games need the package ale-py: pip install 'shoal[atari]' ({error})") from None


def kwargs_of(env_id: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The vector environment's arguments, and whether a lost life has discount 0. Raises ConfigError."""
    kwargs = dict(given)
    life_loss_discount = kwargs.pop("life_loss_discount", True)
    refused = {
        "reward_clipping": "learning from clipped rewards is the algorithm's setting clip_rewards, so that returns "
        "stay true; leave it out",
        "episodic_life": "a lost life has discount 0 and the episode goes on, so that returns stay true; leave it out "
        "(life_loss_discount: false takes that away, too)",
    }
    ConfigError.raise_if(f"env_kwargs.{name}: {why} ({env_id})" for name, why in refused.items() if kwargs.pop(name, 0))
    return {"reward_clipping": False, **kwargs}, bool(life_loss_discount)


class LivesTold(gym.vector.VectorWrapper[Any, Any, Any]):
    """Adds `life_lost` [B], bool, to the info of every step."""

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)
        self._lives: Array = np.zeros(envs.num_envs, np.int32)
        self._ended = np.zeros(envs.num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._lives, self._ended = np.array(info["lives"]), np.zeros(self.num_envs, bool)
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """As the environment's, and which environments lost a life without ending."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        info[LIFE_LOST] = (info["lives"] < self._lives) & ~ended & ~self._ended
        self._lives, self._ended = np.array(info["lives"]), ended
        return obs, reward, terminated, truncated, info
