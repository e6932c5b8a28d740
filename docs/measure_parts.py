"""Each choice that docs/performance.md explains, against what it replaced: `python -m docs.measure_parts`.

One thread, medians of interleaved repeats, in microseconds. Small on purpose: it says which way is faster and by about
how much, on this machine; whole runs are measured by benchmarks/.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import torch
from torch import Tensor

from core import wire
from core.algorithms import dqn
from core.algorithms.dqn_settings import DQNConfig
from core.rl.distributions import Categorical
from core.rl.images import NatureCNN
from core.rl.mlp import MLP
from core.rl.networks import ActorCritic
from core.rl.optim import Adam
from core.rl.qnetworks import QNetwork
from core.rl.returns import gae
from core.rl.settings import PolicySettings
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Context

CARTPOLE = EnvSpec("CartPole-v1", ArraySpec((4,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=2))
ATARI = EnvSpec("ALE/Pong-v5", ArraySpec((4, 84, 84), "uint8"), ActionSpec("discrete", ArraySpec((), "int64"), n=6))
REPEATS = 30
Way = Callable[[], object]


def compare(title: str, ways: Mapping[str, Way]) -> None:
    """Print the median time of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 3):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way()
            if repeat >= 3:
                times[name].append(time.perf_counter() - started_s)
    print(title)
    for name, found in times.items():
        print(f"  {name:<58}{1e6 * statistics.median(found):>10,.0f} us")


def columns() -> None:
    rows, envs = 64, 128
    rng = np.random.default_rng(1)
    unroll: dict[str, Any] = {
        "obs": rng.random((rows + 1, envs, 4), np.float32),
        "action": rng.integers(0, 2, (rows, envs)),
        "reward": np.ones((rows, envs), np.float32),
        "discount": np.ones((rows, envs), np.float32),
        "valid": np.ones((rows, envs), np.uint8),
    }

    def one_by_one() -> list[Any]:
        packed = []
        for t, b in itertools.product(range(rows), range(envs)):
            step = {name: column[t, b].tobytes() for name, column in unroll.items()}
            packed.append(msgpack.packb(step))
        return [msgpack.unpackb(p) for p in packed]

    compare(
        "8,192 rows to bytes and back",
        {"one message a row (msgpack)": one_by_one, "columns (core/wire)": lambda: wire.decode(wire.encode(unroll))},
    )


def optimiser() -> None:
    ours, theirs = (
        ActorCritic(CARTPOLE, PolicySettings(hidden=(64, 64), activation="tanh", shared_trunk=False)) for _ in range(2)
    )
    flat = Adam(ours)
    adam = torch.optim.Adam(theirs.parameters(), fused=True)

    def loss(network: ActorCritic) -> Tensor:
        return torch.stack([p.sum() for p in network.parameters()]).sum()

    def theirs_step() -> None:
        adam.zero_grad()
        loss(theirs).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adam.step()

    compare(
        "backward of a sum, clip the norm, Adam: 12 parameters, two 4-64-64 networks",
        {
            "torch.optim.Adam(fused=True), clip_grad_norm_": theirs_step,
            "one flat parameter tensor (core/rl/optim)": lambda: flat.step(loss(ours), 1e-3, 0.5),
        },
    )


def targets() -> None:
    batches = 64
    config = DQNConfig(target_update_interval=batches)
    algorithm = dqn.DQN(config)
    network = QNetwork(CARTPOLE, config, config.dueling)
    state = algorithm.state(network)
    n = batches * config.batch_size
    batch = {
        "obs": torch.rand(2, n, 4),
        "action": torch.randint(0, 2, (1, n)),
        "reward": torch.ones(1, n),
        "discount": torch.ones(1, n),
        "valid": torch.ones(1, n, dtype=torch.uint8),
    }
    context = Context(np.random.default_rng(1), 0, 1000, 10_000)

    def update(ahead: int) -> None:
        with mock.patch.object(dqn, "MOST_BATCHES_AHEAD", ahead):
            algorithm.update(network, state, batch, context)

    compare(
        f"DQN, {batches} updates of {config.batch_size} items, 256x256, value targets of so many in one forward",
        {f"{ahead}": partial(update, ahead) for ahead in (1, 4, 16, 64)},
    )


def noise() -> None:
    rng, rows, shape = np.random.default_rng(1), 64, (128, 2)
    compare(
        "Gumbel noise for 64 rows of 128 environments",
        {
            "row by row": lambda: [Categorical.noise(rng, shape) for _ in range(rows)],
            "64 rows at once": lambda: Categorical.noise(rng, (rows, *shape)).unbind(0),
        },
    )


def scan(rows: int, envs: int) -> None:
    reward, discount, valid = torch.rand(rows, envs), torch.ones(rows, envs), torch.ones(rows, envs)
    values = torch.rand(rows + 1, envs)

    def loop() -> Tensor:
        onward = 0.99 * discount
        delta = valid * (torch.addcmul(reward, onward, values[1:]) - values[:-1])
        factors, x, found = 0.95 * valid * onward, torch.zeros(envs), torch.empty(rows, envs)
        for t in reversed(range(rows)):
            x = torch.addcmul(delta[t], factors[t], x, out=found[t])
        return found

    compare(
        f"GAE over [{rows}, {envs}]",
        {
            "one addcmul a row": loop,
            "the scan kernel (core/rl/scan)": lambda: gae(reward, discount, valid, values, 0.99, 0.95),
        },
    )


def mlp(rows: int) -> None:
    network, x = MLP((4, 64, 64, 3), "tanh", 1.0), torch.rand(rows, 4)

    def update(onednn: bool, least: int) -> None:
        with mock.patch.multiple("core.rl.mlp", HAS_ONEDNN=onednn, LEAST_GRAD=least):
            network(x).sum().backward()

    compare(
        f"forward and backward of 4-64-64-3, tanh, {rows:,} rows",
        {
            "torch's linear and tanh": partial(update, False, 0),
            "the fused layers of core/rl/mlp": partial(update, True, 0),
        },
    )


def images(gradient: bool) -> None:
    obs = torch.randint(0, 256, (256, 4, 84, 84), dtype=torch.uint8)
    network, blocks = NatureCNN(ATARI), NatureCNN(ATARI)
    network.compute_in("float32")
    blocks.compute_in("bfloat16")

    def plain() -> Tensor:
        x = obs.float() / 255
        for layer in network.convolutions:
            x = layer(x).relu_()
        return x

    def run(forward: Way) -> None:
        with torch.set_grad_enabled(gradient):
            found = forward()
            if gradient:
                found.sum().backward()

    compare(
        f"forward{' and backward' if gradient else ''} of 256 frames of Atari through the Nature network",
        {
            "torch's convolutions as they come": partial(run, plain),
            "channels last (core/rl/images, float32)": partial(run, partial(network, obs)),
            "bf16 over blocks of pixels (core/rl/images, bfloat16)": partial(run, partial(blocks, obs)),
        },
    )


def main() -> None:
    """All of them."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    columns()
    optimiser()
    targets()
    noise()
    scan(64, 128)
    scan(128, 1024)
    mlp(2048)
    mlp(64)
    images(gradient=False)
    images(gradient=True)


if __name__ == "__main__":
    main()
