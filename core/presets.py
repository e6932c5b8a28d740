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


_IMAGES: Mapping[str, Any] = {"shared_trunk": True, "hidden": [512], "activation": "relu", "clip_rewards": True}
"""Of a policy for Atari: the Nature network under one trunk."""
_MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Swimmer-v5")
_WIDE: Mapping[str, Any] = {"hidden": [256, 256], "activation": "relu", "initial_log_std": -2.0, "max_kl": 0.04}
"""TRPO's policy for HalfCheetah, which neither falls nor ends: wide layers, narrow actions, long steps."""

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
    ("ppo", "Acrobot-v1"): {
        "env_steps": 1_000_000,
        "actors": 1,
        "envs_per_actor": 16,
        "ppo": {
            "unroll_length": 128,
            "epochs": 4,
            "minibatch_size": 256,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
            "gae_lambda": 0.94,
            "entropy_coefficient": 0.0,
            "normalise_observations": True,
        },
    },
    ("ppo", "LunarLander-v3"): {
        "env_steps": 1_000_000,
        "actors": 2,
        "envs_per_actor": 8,
        "ppo": {
            "unroll_length": 256,
            "epochs": 6,
            "minibatch_size": 128,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
            "gamma": 0.999,
            "gae_lambda": 0.98,
            "entropy_coefficient": 0.01,
        },
    },
    ("ppo", "Pendulum-v1"): {
        "env_steps": 300_000,
        "actors": 1,
        "envs_per_actor": 8,
        "ppo": {
            "unroll_length": 128,
            "epochs": 10,
            "minibatch_size": 128,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
            "gamma": 0.9,
            "entropy_coefficient": 0.0,
        },
    },
    ("ppo", "ALE/*"): {
        "env_steps": 10_000_000,
        "actors": 1,
        "envs_per_actor": 8,
        "ppo": {
            **_IMAGES,
            "unroll_length": 128,
            "epochs": 4,
            "minibatch_size": 256,
            "learning_rate": 2.5e-4,
            "anneal_learning_rate": True,
            "clip": 0.1,
        },
    },
    ("a2c", "CartPole-v1"): {
        "env_steps": 500_000,
        "actors": 1,
        "envs_per_actor": 32,
        "a2c": {
            "unroll_length": 16,
            "learning_rate": 3e-3,
            "anneal_learning_rate": True,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.0,
            "optimiser": "adam",
        },
    },
    ("a2c", "Acrobot-v1"): {
        "env_steps": 500_000,
        "actors": 1,
        "envs_per_actor": 16,
        "a2c": {
            "unroll_length": 16,
            "learning_rate": 2e-3,
            "anneal_learning_rate": True,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.01,
            "optimiser": "adam",
            "normalise_observations": True,
        },
    },
    ("a2c", "LunarLander-v3"): {
        "env_steps": 200_000,
        "actors": 1,
        "envs_per_actor": 8,
        "policy_lag": 0,
        "a2c": {
            "unroll_length": 5,
            "learning_rate": 8.3e-4,
            "anneal_learning_rate": True,
            "gamma": 0.995,
            "entropy_coefficient": 1e-5,
            "optimiser": "rmsprop_torch",
        },
    },
    ("a2c", "ALE/*"): {
        "env_steps": 10_000_000,
        "actors": 1,
        "envs_per_actor": 16,
        "a2c": {**_IMAGES, "unroll_length": 16, "learning_rate": 7e-4, "value_coefficient": 0.25},
    },
    ("impala", "CartPole-v1"): {
        "env_steps": 300_000,
        "actors": 1,
        "envs_per_actor": 16,
        "impala": {"learning_rate": 2e-3, "anneal_learning_rate": True, "entropy_coefficient": 0.003},
    },
    ("impala", "ALE/*"): {
        "env_steps": 10_000_000,
        "actors": 1,
        "envs_per_actor": 16,
        "impala": {**_IMAGES, "unroll_length": 20, "learning_rate": 6e-4, "anneal_learning_rate": True},
    },
    ("reinforce", "CartPole-v1"): {"env_steps": 300_000, "actors": 1, "envs_per_actor": 16},
    ("actor_critic", "CartPole-v1"): {
        "env_steps": 300_000,
        "actors": 1,
        "envs_per_actor": 16,
        "actor_critic": {"learning_rate": 2e-3},
    },
    ("a3c", "CartPole-v1"): {
        "env_steps": 500_000,
        "actors": 2,
        "envs_per_actor": 4,
        "a3c": {"learning_rate": 2e-3},
    },
    ("npg", "CartPole-v1"): {"env_steps": 200_000, "actors": 1, "envs_per_actor": 8},
    ("trpo", "CartPole-v1"): {"env_steps": 100_000, "actors": 1, "envs_per_actor": 8},
    ("trpo", "Acrobot-v1"): {
        "env_steps": 100_000,
        "actors": 1,
        "envs_per_actor": 8,
        "trpo": {"normalise_observations": True},
    },
    ("trpo", "LunarLander-v3"): {
        "env_steps": 200_000,
        "actors": 1,
        "envs_per_actor": 8,
        "trpo": {"unroll_length": 128, "gamma": 0.995, "gae_lambda": 0.98, "max_kl": 0.02},
    },
    ("es", "CartPole-v1"): {"env_steps": 2_000_000, "actors": 1, "envs_per_actor": 32},
    ("finite_difference", "CartPole-v1"): {"env_steps": 1_000_000, "actors": 1, "envs_per_actor": 20},
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
    ("dqn", "Acrobot-v1"): {
        "env_steps": 100_000,
        "actors": 1,
        "envs_per_actor": 8,
        "dqn": {
            "batch_size": 128,
            "updates_per_env_step": 0.5,
            "learning_rate": 1e-3,
            "double": True,
            "n_step": 3,
            "target_update_interval": 250,
            "epsilon_end": 0.05,
            "epsilon_anneal_env_steps": 12_000,
        },
    },
    ("dqn", "LunarLander-v3"): {
        "env_steps": 100_000,
        "actors": 1,
        "envs_per_actor": 8,
        "dqn": {
            "batch_size": 128,
            "updates_per_env_step": 1.0,
            "learning_rate": 6.3e-4,
            "max_grad_norm": 10.0,
            "target_update_interval": 250,
            "hidden": [256, 256],
            "epsilon_end": 0.1,
            "epsilon_anneal_env_steps": 12_000,
        },
    },
    ("dqn", "ALE/*"): {
        "env_steps": 10_000_000,
        "actors": 1,
        "envs_per_actor": 8,
        "dqn": {
            "batch_size": 32,
            "min_size": 20_000,
            "updates_per_env_step": 0.25,
            "learning_rate": 1e-4,
            "target_update_interval": 1_000,
            "hidden": [512],
            "clip_rewards": True,
            "epsilon_end": 0.01,
            "epsilon_anneal_env_steps": 1_000_000,
        },
    },
    **{
        ("ppo", env): {
            "env_steps": 1_000_000,
            "actors": 1,
            "envs_per_actor": 8,
            "ppo": {
                "unroll_length": 256,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 3e-4,
                "anneal_learning_rate": True,
                "value_coefficient": 0.25,
                "entropy_coefficient": 0.0,
                "initial_log_std": -0.5,
                "normalise_advantages": False,
                "recompute_advantages": True,
                "normalise_observations": True,
                "normalise_rewards": True,
            },
        }
        for env in _MUJOCO
    },
    **{
        ("trpo", env): {
            "env_steps": 1_000_000,
            "actors": 1,
            "envs_per_actor": 8,
            "trpo": {
                "unroll_length": 256,
                "cg_iterations": 25,
                "gae_lambda": 0.95,
                "value_epochs": 20,
                "normalise_observations": True,
                "normalise_rewards": True,
                **(_WIDE if env == "HalfCheetah-v5" else {}),
            },
        }
        for env in _MUJOCO
    },
}
