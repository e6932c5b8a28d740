"""`shoal eval RUN`: whole episodes with a trained policy, and a film of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from core import envs as vector
from core.errors import ConfigError
from core.evaluate import evaluate
from core.types import Array, Episode, Step
from shoal.policy import Policy

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ENVS = 20
FILM_FPS = 25
FILM_WIDTH = 480
FILM_MAX_FRAMES = 1500


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of the episodes played."""

    episodes: tuple[Episode, ...]

    def figures(self) -> dict[str, float]:
        """Mean, standard deviation, minimum and maximum of the returns, and the mean length."""
        returns = np.array([e.total_reward for e in self.episodes])
        lengths = np.array([e.length for e in self.episodes])
        return {
            "mean return": float(returns.mean()),
            "standard deviation": float(returns.std()),
            "lowest": float(returns.min()),
            "highest": float(returns.max()),
            "mean length": float(lengths.mean()),
        }


def play(policy: Policy, episodes: int, seed: int) -> Evaluation:
    """Play `episodes` greedy episodes; their seeds are never those of training."""
    if episodes < 1:
        raise ConfigError(f"--episodes {episodes}: at least 1 is needed")
    envs = vector.make(policy.env, min(episodes, MAX_ENVS), policy.env_kwargs, policy.env_wrappers)
    try:
        played = evaluate(policy.as_function(), envs, policy.spec, episodes, _seed(seed))
    finally:
        envs.close()
    return Evaluation(tuple(played))


def film(policy: Policy, folder: Path, seed: int) -> tuple[Path, Episode]:
    """Play one greedy episode and write it as an animated GIF into `folder`.

    Raises ConfigError where the environment cannot draw itself.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no screen is looked for, and none complained about
    envs = vector.make(policy.env, 1, {**policy.env_kwargs, "render_mode": "rgb_array"}, policy.env_wrappers)
    fps = int(envs.metadata.get("render_fps") or FILM_FPS)
    every = max(1, round(fps / FILM_FPS))
    frames: list[Image] = []
    act, rows = policy.as_function(), 0

    def filmed(obs: Array, memory: Any) -> Step:
        nonlocal rows
        if rows % every == 0 and len(frames) < FILM_MAX_FRAMES:
            frames.append(_frame(policy.env, envs))
        rows += 1
        return act(obs, memory)

    try:
        (episode,) = evaluate(filmed, envs, policy.spec, 1, _seed(seed))
    finally:
        envs.close()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{policy.path.name}-seed{seed}.gif"
    first, *rest = frames
    first.save(path, save_all=True, append_images=rest, duration=round(1000 * every / fps), loop=0)
    return path, episode


def _seed(seed: int) -> int:
    return vector.seed_of(seed, 0, vector.EVALUATION)


def _frame(env: str, envs: vector.Env) -> Image:
    """What the first environment looks like now, small and with 256 colours."""
    from PIL import Image

    try:
        pixels = envs.render()
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(f"environment {env!r} cannot be filmed: {error}") from None
    if not pixels or not isinstance(pixels[0], np.ndarray):
        raise ConfigError(f"environment {env!r} cannot be filmed: it draws no rgb_array frames")
    picture = Image.fromarray(pixels[0].astype(np.uint8))
    picture.thumbnail((FILM_WIDTH, FILM_WIDTH))
    return picture.quantize(256)
