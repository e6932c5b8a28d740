"""The rows of the scores page: which algorithm on which environment, for how long, and what must come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ZOO, CLEANRL, TIANSHOU, OWN = "zoo", "CleanRL", "Tianshou", "own bar"
SOURCES = {
    ZOO: "RL Baselines3 Zoo, benchmark.md, with Stable-Baselines3 2.x and sb3-contrib 2.x",
    CLEANRL: "CleanRL's documentation, version 1.0",
    TIANSHOU: "Tianshou's examples/mujoco, versions 0.4 to 1.x, 10 seeds",
    OWN: "nobody publishes a comparable figure; the bar is Shoal's own",
}
"""Where a published figure is from."""

RANDOM_RETURN = {
    "CartPole-v1": 22.0,
    "Acrobot-v1": -499.0,
    "LunarLander-v3": -180.0,
    "Pendulum-v1": -1220.0,
    "HalfCheetah-v5": -280.0,
    "Hopper-v5": 18.0,
    "Humanoid-v5": 120.0,
    "ALE/Pong-v5": -20.7,
    "ALE/Breakout-v5": 1.7,
}
"""What a random policy gets."""


@dataclass(frozen=True)
class Score:
    """Greedy evaluation after `env_steps`: the median of the seeds must not be below `bar`."""

    group: str
    algorithm: str
    env: str
    env_steps: int
    published: float
    spread: float | None
    source: str
    seeds: int = 5

    @property
    def id(self) -> str:
        """Name in the results file."""
        return f"{self.algorithm} on {self.env} at {self.env_steps}"

    @property
    def bar(self) -> float:
        """Published mean minus its deviation; where none is given, minus a tenth of the way to a random policy."""
        below = 0.1 * (self.published - RANDOM_RETURN[self.env]) if self.spread is None else self.spread
        return self.published - below

    def flags(self) -> tuple[str, ...]:
        """Of `shoal train`."""
        return ("--env-steps", str(self.env_steps), "--set", "evaluation.episodes=100")


@dataclass(frozen=True)
class Reach:
    """An evaluation must reach `target`: the median of the seeds within `env_steps`."""

    group: str
    algorithm: str
    env: str
    env_steps: int
    target: float
    settings: tuple[str, ...] = ()
    source: str = OWN
    seeds: int = 5

    @property
    def id(self) -> str:
        """Name in the results file."""
        with_ = f" with {' '.join(self.settings)}" if self.settings else ""
        return f"{self.algorithm}{with_} on {self.env} to {self.target:g}"

    def flags(self) -> tuple[str, ...]:
        """Of `shoal train`."""
        more = ("--set", *self.settings) if self.settings else ()
        return ("--env-steps", str(self.env_steps), "--target-return", f"{self.target:g}", *more)


Row = Score | Reach

_TABLE: dict[tuple[str, str], dict[str, tuple[int, float, float | None, str]]] = {
    ("CartPole-v1", "classic"): {
        "dqn": (50_000, 500, None, ZOO),
        "a2c": (500_000, 500, None, ZOO),
        "ppo": (100_000, 500, None, ZOO),
        "trpo": (100_000, 500, None, ZOO),
    },
    ("Acrobot-v1", "classic"): {
        "dqn": (100_000, -76.6, 12, ZOO),
        "a2c": (500_000, -83.4, 17, ZOO),
        "ppo": (1_000_000, -73.5, 18, ZOO),
        "trpo": (100_000, -83.1, 19, ZOO),
    },
    ("LunarLander-v3", "box2d"): {
        "dqn": (100_000, 154, 79, ZOO),
        "a2c": (200_000, 156, 80, ZOO),
        "ppo": (1_000_000, 242, 32, ZOO),
        "trpo": (200_000, 133, 112, ZOO),
    },
    ("HalfCheetah-v5", "mujoco"): {
        "ppo": (1_000_000, 5819, 664, ZOO),
        "trpo": (1_000_000, 4471, 805, TIANSHOU),
        "a2c": (1_000_000, 3041, None, ZOO),
    },
    ("Hopper-v5", "mujoco"): {
        "ppo": (1_000_000, 2609, 701, TIANSHOU),
        "trpo": (1_000_000, 3618, 357, ZOO),
        "a2c": (1_000_000, 1253, None, ZOO),
    },
    ("Humanoid-v5", "mujoco"): {
        "ppo": (1_000_000, 787, None, TIANSHOU),
        "trpo": (1_000_000, 810, None, TIANSHOU),
        "a2c": (1_000_000, 1726, None, ZOO),
    },
    ("ALE/Pong-v5", "atari"): {
        "dqn": (10_000_000, 20.6, None, ZOO),
        "a2c": (10_000_000, 17.3, None, ZOO),
        "ppo": (10_000_000, 20.99, None, ZOO),
    },
    ("ALE/Breakout-v5", "atari"): {
        "dqn": (10_000_000, 358, None, ZOO),
        "a2c": (10_000_000, 280, None, ZOO),
        "ppo": (10_000_000, 398, None, CLEANRL),
    },
}
"""(env, group) -> algorithm -> env_steps, published mean, deviation, source."""


def _scores() -> Iterator[Score]:
    for (env, group), algorithms in _TABLE.items():
        seeds = 3 if group in ("mujoco", "atari") else 5
        for algorithm, (env_steps, published, spread, source) in algorithms.items():
            yield Score(group, algorithm, env, env_steps, published, spread, source, seeds)


ROWS: tuple[Row, ...] = (
    *_scores(),
    Reach("classic", "reinforce", "CartPole-v1", 300_000, 475),
    Reach("classic", "actor_critic", "CartPole-v1", 300_000, 475),
    Reach("classic", "a3c", "CartPole-v1", 500_000, 475),
    Reach("classic", "npg", "CartPole-v1", 200_000, 475),
    Reach("classic", "impala", "CartPole-v1", 300_000, 475),
    Reach("classic", "es", "CartPole-v1", 2_000_000, 475),
    Reach("classic", "finite_difference", "CartPole-v1", 1_000_000, 400),
    Reach("classic", "ppo", "Pendulum-v1", 300_000, -250),
)
GROUPS = ("classic", "box2d", "mujoco", "atari")
