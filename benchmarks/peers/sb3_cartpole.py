"""Stable-Baselines3 on CartPole-v1. Runs in its own virtual environment, needs nothing of Shoal, prints one JSON line.

python sb3_cartpole.py ppo-solve --seed 1         rl-zoo settings, until 20 greedy episodes reach 475
python sb3_cartpole.py ppo-speed --seconds 10     128 envs, unrolls of 64, 4 epochs, minibatches of 2048
python sb3_cartpole.py dqn-speed --env-steps 30000    rl-zoo settings
python sb3_cartpole.py a2c-speed --seconds 10     rl-zoo settings: 8 envs, unrolls of 5
python sb3_cartpole.py a2c-wide --seconds 10      64 envs, unrolls of 32
"""

import argparse
import json
import time

import gymnasium
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule

ENV = "CartPole-v1"
IMPORTED_UNIX_S = time.time()
TARGET_RETURN, EVALUATE_EVERY, EPISODES, BUDGET = 475, 5_000, 20, 100_000


class Trunk(BaseFeaturesExtractor):
    """64x64 shared by policy and value, which saves Stable-Baselines3 its second network."""

    def __init__(self, space):
        super().__init__(space, features_dim=64)
        nn = torch.nn
        self.layers = nn.Sequential(nn.Linear(space.shape[0], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())

    def forward(self, obs):
        return self.layers(obs)


def ppo_zoo(seed):
    return PPO(
        "MlpPolicy",
        make_vec_env(ENV, 8, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        clip_range=LinearSchedule(0.2, 0.0, 1.0),
        seed=seed,
        device="cpu",
    )


def ppo_fast(seed):
    return PPO(
        "MlpPolicy",
        make_vec_env(ENV, 128, seed=seed),
        n_steps=64,
        batch_size=2048,
        n_epochs=4,
        learning_rate=3e-4,
        policy_kwargs={"features_extractor_class": Trunk, "net_arch": []},
        seed=seed,
        device="cpu",
    )


def a2c(seed, envs, n_steps):
    env = make_vec_env(ENV, envs, seed=seed)
    return A2C("MlpPolicy", env, n_steps=n_steps, ent_coef=0.0, seed=seed, device="cpu")


def dqn_zoo(seed):
    return DQN(
        "MlpPolicy",
        gymnasium.make(ENV),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        max_grad_norm=10,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )


class UntilSolved(BaseCallback):
    """Evaluates every 5,000 env steps; notes when the first round of updates was over and when it was solved."""

    def __init__(self, seed):
        super().__init__()
        self.envs = make_vec_env(ENV, EPISODES, seed=1_000_000 + seed)
        self.next_at, self.evaluation_s, self.rounds = EVALUATE_EVERY, 0.0, 0
        self.first_update_unix_s = self.solved_unix_s = self.solved_at_env_steps = None

    def _on_rollout_start(self):
        self.rounds += 1
        if self.rounds == 2:
            self.first_update_unix_s = time.time()

    def _on_step(self):
        if self.num_timesteps < self.next_at:
            return True
        self.next_at += EVALUATE_EVERY
        start_s = time.perf_counter()
        mean_return, _ = evaluate_policy(self.model, self.envs, EPISODES, deterministic=True)
        self.evaluation_s += time.perf_counter() - start_s
        if mean_return < TARGET_RETURN:
            return True
        self.solved_unix_s, self.solved_at_env_steps = time.time(), self.num_timesteps
        return False


class ForSeconds(BaseCallback):
    """Ends after so many seconds, at the start of an unroll so that every unroll counted was learned from."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.over, self.env_steps = seconds, False, 0

    def _on_training_start(self):
        self.start_s = time.perf_counter()

    def _on_rollout_start(self):
        self.took_s, self.env_steps = time.perf_counter() - self.start_s, self.num_timesteps
        self.over = self.took_s >= self.seconds

    def _on_step(self):
        return not self.over


def ppo_solve(o):
    model, callback = ppo_zoo(o.seed), UntilSolved(o.seed)
    model.learn(BUDGET, callback=callback)
    names = ("first_update_unix_s", "solved_unix_s", "solved_at_env_steps", "evaluation_s")
    return {"imported_unix_s": IMPORTED_UNIX_S, **{name: getattr(callback, name) for name in names}}


def speed(model, seconds):
    callback = ForSeconds(seconds)
    model.learn(10**9, callback=callback)
    return {"env_steps": callback.env_steps, "env_steps_per_s": round(callback.env_steps / callback.took_s)}


def ppo_speed(o):
    return speed(ppo_fast(o.seed), o.seconds)


def a2c_speed(o):
    return speed(a2c(o.seed, 8, 5), o.seconds)


def a2c_wide(o):
    return speed(a2c(o.seed, 64, 32), o.seconds)


def dqn_speed(o):
    model = dqn_zoo(o.seed)
    start_s = time.perf_counter()
    model.learn(o.env_steps)
    took_s = time.perf_counter() - start_s
    return {"env_steps": model.num_timesteps, "env_steps_per_s": round(model.num_timesteps / took_s)}


WHAT = {
    "ppo-solve": ppo_solve,
    "ppo-speed": ppo_speed,
    "dqn-speed": dqn_speed,
    "a2c-speed": a2c_speed,
    "a2c-wide": a2c_wide,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--env-steps", type=int, default=30_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({"peer": "stable-baselines3", **vars(options), **WHAT[options.what](options)}), flush=True)
