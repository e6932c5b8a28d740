"""Stable-Baselines3's A2C on LunarLander-v3 with RL Baselines3 Zoo's settings: what the published figure, of v2
and one seed, is worth on v3. Runs in its own virtual environment, needs nothing of Shoal, prints one JSON line.

python sb3_lunarlander.py --seed 1        200,000 env steps, then 100 greedy and 100 sampled episodes
"""

import argparse
import json

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

ENV, ENV_STEPS, EPISODES = "LunarLander-v3", 200_000, 100

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = A2C(
        "MlpPolicy",
        make_vec_env(ENV, 8, seed=options.seed),
        gamma=0.995,
        n_steps=5,
        learning_rate=LinearSchedule(0.00083, 0.0, 1.0),
        ent_coef=0.00001,
        seed=options.seed,
        device="cpu",
    )
    model.learn(ENV_STEPS)
    found = {"peer": "stable-baselines3", "seed": options.seed, "env_steps": model.num_timesteps}
    for name, greedy in (("eval_return", True), ("sampled_return", False)):
        envs = make_vec_env(ENV, 8, seed=1_000_000 + options.seed)
        found[name], _ = evaluate_policy(model, envs, EPISODES, deterministic=greedy)
    print(json.dumps(found), flush=True)
