"""What is measured: Shoal, the bare path and the peers, in heats whose runs take turns."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.installer import python_of
from benchmarks.running import Contestant, Result, last_json

SECONDS = 10
"""How long the fast runs train."""
DQN_SPEED_ENV_STEPS = 30_000
TARGET_RETURN = 475.0

SHOAL_PPO, SB3_PPO = "shoal ppo", "sb3 ppo"
SHOAL_DQN = "shoal dqn"
SHOAL_PPO_FAST, LIMIT, SAMPLE_FACTORY = "shoal ppo fast", "limit", "sample-factory"
SB3_PPO_FAST = ("sb3 ppo fast, 1 thread", "sb3 ppo fast, 2 threads")
"""Shoal's two processes have one thread each; which of the two is faster here depends on the machine."""
SHOAL_PPO_FAST_SOLVES = "shoal ppo fast to 475"
SHOAL_DQN_ZOO, SB3_DQN_ZOO = "shoal dqn zoo", "sb3 dqn zoo"
MEMORY_PPO, MEMORY_DQN_EMBEDDED, MEMORY_DQN = "memory ppo", "memory dqn embedded", "memory dqn"

PEER_OF = dict.fromkeys((SB3_PPO, *SB3_PPO_FAST, SB3_DQN_ZOO), "sb3") | {SAMPLE_FACTORY: "sample-factory"}
"""What must be installed for it."""

FAST = (
    *("--actors", "1", "--envs-per-actor", "128", "--policy-lag", "1", "--env-steps", "1500000"),
    *("--set", "learner_threads=1", "ppo.unroll_length=64", "ppo.epochs=4", "ppo.minibatch_size=2048"),
    *("ppo.hidden=[64, 64]", "ppo.shared_trunk=true", "ppo.learning_rate=4e-3", "ppo.anneal_learning_rate=false"),
    *("ppo.gamma=0.98", "ppo.gae_lambda=0.9", "ppo.entropy_coefficient=0"),
)
ZOO_DQN = (
    *("--actors", "1", "--env-steps", str(DQN_SPEED_ENV_STEPS), "--set", "learner_threads=1"),
    *("dqn.batch_size=64", "dqn.updates_per_env_step=0.5", "dqn.min_size=1000", "dqn.replay_capacity=100000"),
    *("dqn.hidden=[256, 256]", "dqn.max_grad_norm=10", "dqn.learning_rate=2.3e-3"),
    "dqn.n_step=1",
    "dqn.target_update_interval=128",  # the peer copies every 10 env steps, but updates 128 times between two
)


def shoal(name: str, algorithm: str, *flags: str, watch: bool = False) -> Contestant:
    """A run of Shoal from the command line, its figures from summary.json."""

    def command(seed: int, folder: Path) -> list[str]:
        start = [sys.executable, "-m", "shoal", "train", "--algorithm", algorithm, "--env", "CartPole-v1"]
        run_dir = ["--seed", str(seed), "--run-dir", str(folder / "run"), "--overwrite", "--quiet"]
        return [*start, *flags, *run_dir]

    return Contestant(name, command, read_run, watch=watch, once=watch)


def read_run(folder: Path, _log: Path) -> Result:
    """A run's summary, and the seconds that evaluations took until it was solved."""
    run = folder / "run"
    summary: dict[str, object] = json.loads((run / "summary.json").read_text())
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    failed = list(itertools.takewhile(lambda line: line["eval_return"] < TARGET_RETURN, evaluations))
    until_solved = evaluations[: len(failed) + 1]
    summary["evaluation_until_solved_s"] = sum(line.get("took_s", 0.0) for line in until_solved)
    return summary


def script(name: str, path: str, *flags: str) -> Contestant:
    """A peer's script, run by the peer's own interpreter."""

    def command(seed: int, _folder: Path) -> list[str]:
        python = python_of(PEER_OF[name])
        return [str(python), f"benchmarks/peers/{path}", *flags, "--seed", str(seed)]

    return Contestant(name, command, _printed)


def limit() -> Contestant:
    """The bare path."""

    def command(_seed: int, _folder: Path) -> list[str]:
        sizes = ("--actors", "1", "--envs", "128", "--unroll", "64", "--epochs", "4", "--minibatch", "2048")
        rest = ("--lag", "1", "--threads", "1", "--seconds", str(SECONDS))
        return [sys.executable, "-m", "benchmarks.limit_actor_learner", *sizes, *rest]

    return Contestant(LIMIT, command, _printed)


def _printed(_folder: Path, log: Path) -> Result:
    return last_json(log)


SOLVE = ("--target-return", f"{TARGET_RETURN:g}")

HEATS: Sequence[Sequence[Contestant]] = (
    (shoal(SHOAL_PPO, "ppo", *SOLVE), script(SB3_PPO, "sb3_cartpole.py", "ppo-solve")),
    (shoal(SHOAL_DQN, "dqn", *SOLVE),),
    (
        shoal(SHOAL_PPO_FAST, "ppo", *FAST),
        limit(),
        *(
            script(name, "sb3_cartpole.py", "ppo-speed", "--seconds", str(SECONDS), "--threads", threads)
            for name, threads in zip(SB3_PPO_FAST, ("1", "2"), strict=True)
        ),
        script(SAMPLE_FACTORY, "sample_factory_cartpole.py", "--seconds", str(SECONDS)),
    ),
    (shoal(SHOAL_PPO_FAST_SOLVES, "ppo", *FAST, "--target-return", f"{TARGET_RETURN:g}"),),
    (
        shoal(SHOAL_DQN_ZOO, "dqn", *ZOO_DQN),
        script(SB3_DQN_ZOO, "sb3_cartpole.py", "dqn-speed", "--env-steps", str(DQN_SPEED_ENV_STEPS)),
    ),
    (
        shoal(MEMORY_PPO, "ppo", "--env-steps", "40000", watch=True),
        shoal(MEMORY_DQN_EMBEDDED, "dqn", "--env-steps", "20000", "--replay", "embedded", watch=True),
        shoal(MEMORY_DQN, "dqn", "--env-steps", "20000", watch=True),
    ),
)
