"""`python -m benchmarks.replay.compression`: what zstd makes of a few columns, and on how slow a link it pays.

It pays where a link takes longer for the bytes saved than a core takes to compress and to unpack them. Columns are
real: an unroll of CartPole's observations and rewards, its pictures as 84 x 84 grey frames; and noise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from core.compression import Compressor, decompress
from core.types import Array

ROWS, REPEATS = 512, 20


def main() -> int:
    """The exit code."""
    table = Table("column", "bytes", "of them left", "compress", "unpack", "pays on links slower than")
    for name, column in columns().items():
        table.add_row(*measured(name, column))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def measured(name: str, column: Array) -> list[str]:
    """A row of the table."""
    raw = memoryview(column.tobytes())
    small = Compressor().compress(name, raw)
    pack_s = best_s(lambda: Compressor().compress(name, raw))
    size = f"{raw.nbytes:,}"
    if small is None:
        return [name, size, "sent as it is", f"{raw.nbytes / pack_s / 1e9:.2f} GB/s", "-", "never (one try in 64)"]
    unpack_s = best_s(lambda: decompress(name, small, raw.nbytes))
    bits_per_s = 8 * (raw.nbytes - len(small)) / (pack_s + unpack_s)
    rates = [f"{raw.nbytes / seconds / 1e9:.2f} GB/s" for seconds in (pack_s, unpack_s)]
    return [name, size, f"{100 * len(small) / raw.nbytes:.1f} %", *rates, f"{bits_per_s / 1e9:.1f} Gbit/s"]


def best_s(function: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    best = float("inf")
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start_s)
    return best


def columns() -> dict[str, Array]:
    """[rows, ...] each."""
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.action_space.seed(1)
    observation, _ = env.reset(seed=1)
    observations, rewards, frames = [], [], []
    for _ in range(ROWS):
        observations.append(observation)
        frames.append(grey(np.asarray(env.render())))
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rewards.append(np.float32(reward))
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    noise = np.random.default_rng(1).integers(0, 256, (ROWS, 84, 84), dtype=np.uint8)
    return {
        "grey frames 84 x 84": np.stack(frames),
        "CartPole observations": np.stack(observations).astype(np.float32),
        "rewards (all one)": np.array(rewards * 8, np.float32),
        "noise": noise,
    }


def grey(picture: Array) -> Array:
    """[84, 84] of an RGB picture, by its nearest pixels."""
    rows = np.linspace(0, picture.shape[0] - 1, 84).astype(int)
    lines = np.linspace(0, picture.shape[1] - 1, 84).astype(int)
    pixels: Array = picture[rows][:, lines].mean(-1).astype(np.uint8)
    return pixels


if __name__ == "__main__":
    sys.exit(main())
