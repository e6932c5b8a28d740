"""Sample Factory's APPO on CartPole-v1 at the settings that were its fastest on two cores: 2 workers of 16 envs.

Runs in its own virtual environment, needs nothing of Shoal, prints one JSON line: its speed from the second second of
training on. Its own --train_for_seconds never ends a run (2.1.1 does not count them), so this ends it.

    python sample_factory_cartpole.py --seed 1 --seconds 10
"""

import argparse
import json
import tempfile
import time

import gymnasium
from sample_factory.algo.runners.runner import Runner
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl

WARM_UP_S = 1.0
FLAGS = (
    "--algo=APPO --env=cartpole --num_workers=2 --num_envs_per_worker=16 --worker_num_splits=2 --rollout=32 "
    "--batch_size=1024 --device=cpu --experiment=cartpole --encoder_mlp_layers 64 64 --use_rnn=False "
    "--normalize_input=False --restart_behavior=overwrite"
)


def cartpole(name, cfg=None, env_config=None, render_mode=None):
    return gymnasium.make("CartPole-v1", render_mode=render_mode)


class Watch:
    """Stands in for Runner._should_end_training, which is asked after every batch."""

    def __init__(self, seconds):
        self.seconds, self.first_s, self.start, self.end = seconds, None, None, None

    def over(self, env_steps):
        now_s = time.perf_counter()
        self.first_s = self.first_s or now_s
        if self.start is None and now_s - self.first_s >= WARM_UP_S:
            self.start = (now_s, env_steps)
        if self.start is None or now_s - self.start[0] < self.seconds:
            return False
        self.end = self.end or (now_s, env_steps)
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    watch = Watch(options.seconds)
    Runner._should_end_training = lambda runner: watch.over(sum(runner.env_steps.values()))
    register_env("cartpole", cartpole)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", ignore_cleanup_errors=True) as folder:
        argv = [*FLAGS.split(), f"--seed={options.seed}", f"--train_dir={folder}"]
        run_rl(parse_full_cfg(parse_sf_args(argv)[0], argv))
    (start_s, before), (end_s, after) = watch.start, watch.end
    speed = round((after - before) / (end_s - start_s))
    print(json.dumps({"peer": "sample-factory", **vars(options), "env_steps_per_s": speed}), flush=True)


if __name__ == "__main__":
    main()
