"""How fast are an environment and a policy's forward alone? Processes that do nothing else; one JSON line.

    python -m benchmarks.limit_env LunarLander-v3 --processes 2 --envs 16 --seconds 10

Every process steps gymnasium's own vector environment and samples from a 64x64 tanh network, one thread each. The env
steps of all processes together count, rows on which an environment resets left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn


def act(env_id: str, envs: int, seconds: float, seed: int, start: Any, counted: Any) -> None:
    """Step for `seconds` from the moment when everybody is ready; the env steps go to `counted`."""
    torch.set_num_threads(1)
    vector = gymnasium.make_vec(env_id, num_envs=envs, vectorization_mode="sync")
    space: Any = vector.single_action_space
    inputs, outputs = int(np.prod(vector.single_observation_space.shape or (1,))), int(space.n)
    network = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
    rng = np.random.default_rng(seed)
    obs, _ = vector.reset(seed=seed)
    ended, steps = np.zeros(envs, bool), 0
    start.wait()
    end_s = time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < end_s:
            logits = network(torch.from_numpy(obs)).numpy()
            obs, _, terminated, truncated, _ = vector.step((logits + rng.gumbel(size=logits.shape)).argmax(1))
            steps += envs - int(ended.sum())
            ended = terminated | truncated
    counted.put(steps)


def main() -> None:
    """Print the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    start, counted = context.Barrier(o.processes), context.Queue()
    workers = [
        context.Process(target=act, args=(o.env, o.envs, o.seconds, o.seed + i, start, counted))
        for i in range(o.processes)
    ]
    for worker in workers:
        worker.start()
    steps = sum(counted.get(timeout=o.seconds + 60) for _ in workers)
    for worker in workers:
        worker.join()
    print(json.dumps({"limit": "environment and policy", **vars(o), "env_steps_per_s": round(steps / o.seconds)}))


if __name__ == "__main__":
    main()
