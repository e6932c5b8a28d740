"""Stable-Baselines3 on Pong from pixels. Runs in its own virtual environment, needs nothing of Shoal, prints one line.

python sb3_pong.py ppo --seconds 45     8 environments in subprocesses, 4 epochs, minibatches of 256
python sb3_pong.py a2c --seconds 45     8 environments in subprocesses, its own settings
"""

import argparse
import json
import time

import ale_py
import gymnasium
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

ENV = "PongNoFrameskip-v4"  # its wrapper skips four frames


class ForSeconds(BaseCallback):
    """Ends after so many seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def _on_training_start(self):
        self.end_s = time.perf_counter() + self.seconds

    def _on_step(self):
        return time.perf_counter() < self.end_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=("ppo", "a2c"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=45.0)
    options = parser.parse_args()
    gymnasium.register_envs(ale_py)
    torch.set_num_threads(2)
    env = VecFrameStack(make_atari_env(ENV, 8, seed=options.seed, vec_env_cls=SubprocVecEnv), 4)
    if options.algorithm == "ppo":
        model = PPO("CnnPolicy", env, n_steps=128, n_epochs=4, batch_size=256, seed=options.seed, device="cpu")
    else:
        model = A2C("CnnPolicy", env, seed=options.seed, device="cpu")
    start_s = time.perf_counter()
    model.learn(10**9, callback=ForSeconds(options.seconds))
    speed = round(model.num_timesteps / (time.perf_counter() - start_s))
    print(json.dumps({"peer": "stable-baselines3", "env": ENV, **vars(options), "env_steps_per_s": speed}), flush=True)
