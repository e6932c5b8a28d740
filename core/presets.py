"""Settings known to work well for an algorithm on an environment; they lie between the defaults and the user's own.

Read by core/config.py. An entry is written as in a YAML file. An environment's name may be a pattern that stands for a
family, such as ALE/*; an entry for the very environment goes before it. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

Presets = Mapping[tuple[str, str], Mapping[str, Any]]
"""(algorithm, environment id or pattern) -> settings."""


def find(presets: Presets, algorithm: str, env: str) -> tuple[str, Mapping[str, Any]]:
    """The environment or pattern that fits best, and its settings; "" and none where nothing fits."""
    fitting = [name for of, name in presets if of == algorithm and fnmatchcase(env, name)]
    name = env if env in fitting else max(fitting, key=len, default="")
    return name, presets.get((algorithm, name), {})


PRESETS: Presets = {
    # From RL Baselines3 Zoo's settings for the same environment, then tuned: half the epochs at twice the learning rate
    # for PPO, and three-step returns for DQN, solve it in fewer env steps and seconds.
    ("ppo", "CartPole-v1"): {
        "env_steps": 100_000,
        "actors": 1,
        "envs_per_actor": 8,
        "ppo": {
            "unroll_length": 32,
            "epochs": 10,
            "minibatch_size": 256,
            "learning_rate": 2e-3,
            "anneal_learning_rate": True,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "entropy_coefficient": 0.0,
        },
    },
    ("dqn", "CartPole-v1"): {
        "env_steps": 100_000,
        "actors": 1,
        "envs_per_actor": 8,
        "dqn": {
            "batch_size": 64,
            "min_size": 1000,
            "updates_per_env_step": 0.5,
            "learning_rate": 2.3e-3,
            "gamma": 0.99,
            "n_step": 3,
            "target_update_interval": 128,
            "hidden": [256, 256],
            "epsilon_end": 0.04,
            "epsilon_anneal_env_steps": 8_000,
        },
    },
}
