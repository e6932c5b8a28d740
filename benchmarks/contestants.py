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

SHOAL_A2C, SB3_A2C, SHOAL_A2C_WIDE, SB3_A2C_WIDE = "shoal a2c", "sb3 a2c", "shoal a2c wide", "sb3 a2c wide"
SHOAL_PONG_PPO, SHOAL_PONG_A2C, SHOAL_PONG_IMPALA = "shoal pong ppo", "shoal pong a2c", "shoal pong impala"
SB3_PONG_PPO, SB3_PONG_A2C = "sb3 pong ppo", "sb3 pong a2c"
SHOAL_LANDER, BARE_LANDER = "shoal lander ppo", "bare lander"

SB3 = (SB3_PPO, *SB3_PPO_FAST, SB3_DQN_ZOO, SB3_A2C, SB3_A2C_WIDE, SB3_PONG_PPO, SB3_PONG_A2C)
PEER_OF = dict.fromkeys(SB3, "sb3") | {SAMPLE_FACTORY: "sample-factory"}
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


WIDE_A2C = (
    *("--actors", "1", "--envs-per-actor", "64", "--env-steps", "1000000", "--set", "learner_threads=1"),
    *("a2c.unroll_length=32", "a2c.hidden=[64, 64]", "a2c.shared_trunk=false"),
)
"""What the peer does in its wide setting."""
PONG_PPO = ("--env-steps", "40000", "--set", "ppo.epochs=4", "ppo.minibatch_size=256", "ppo.unroll_length=128")
PONG = ("--env-steps", "80000")
LANDER = (
    *("--actors", "1", "--envs-per-actor", "16", "--policy-lag", "1", "--env-steps", "600000"),
    *("--set", "learner_threads=1", "ppo.epochs=4", "ppo.minibatch_size=256"),
)
"""One core acts, the other learns; 4 epochs, so that the learner keeps pace."""


def shoal(name: str, algorithm: str, *flags: str, env: str = "CartPole-v1", watch: bool = False) -> Contestant:
    """A run of Shoal from the command line, its figures from summary.json."""

    def command(seed: int, folder: Path) -> list[str]:
        start = [sys.executable, "-m", "shoal", "train", "--algorithm", algorithm, "--env", env]
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


def bare_lander() -> Contestant:
    """The environment and the policy's forward, on as many cores as the actors have."""

    def command(seed: int, _folder: Path) -> list[str]:
        sizes = ("--processes", "1", "--envs", "16", "--seconds", str(SECONDS), "--seed", str(seed))
        return [sys.executable, "-m", "benchmarks.limit_env", "LunarLander-v3", *sizes]

    return Contestant(BARE_LANDER, command, _printed)


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
        shoal(SHOAL_A2C, "a2c", "--env-steps", "1000000"),
        script(SB3_A2C, "sb3_cartpole.py", "a2c-speed", "--seconds", str(SECONDS)),
        shoal(SHOAL_A2C_WIDE, "a2c", *WIDE_A2C),
        script(SB3_A2C_WIDE, "sb3_cartpole.py", "a2c-wide", "--seconds", str(SECONDS)),
    ),
    (
        shoal(SHOAL_PONG_PPO, "ppo", *PONG_PPO, env="ALE/Pong-v5"),
        script(SB3_PONG_PPO, "sb3_pong.py", "ppo"),
        shoal(SHOAL_PONG_A2C, "a2c", *PONG, env="ALE/Pong-v5"),
        script(SB3_PONG_A2C, "sb3_pong.py", "a2c"),
        shoal(SHOAL_PONG_IMPALA, "impala", *PONG, env="ALE/Pong-v5"),
    ),
    (shoal(SHOAL_LANDER, "ppo", *LANDER, env="LunarLander-v3"), bare_lander()),
    (
        shoal(MEMORY_PPO, "ppo", "--env-steps", "40000", watch=True),
        shoal(MEMORY_DQN_EMBEDDED, "dqn", "--env-steps", "20000", "--replay", "embedded", watch=True),
        shoal(MEMORY_DQN, "dqn", "--env-steps", "20000", watch=True),
    ),
)
