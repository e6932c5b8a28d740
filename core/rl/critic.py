"""Fitting the value by itself, for algorithms whose policy makes steps of another kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from core.rl.losses import mean
from core.rl.networks import ActorCritic
from core.rl.optim import Optimiser


def fit_values(
    network: ActorCritic,
    optimiser: Optimiser,
    batch: Mapping[str, Tensor],
    targets_TB: Tensor,
    rng: np.random.Generator,
    *,
    epochs: int,
    minibatch_size: int,
    learning_rate: float,
) -> tuple[int, Tensor]:
    """Descend the squared error to `targets_TB` in shuffled minibatches; how many steps, and the mean loss.

    The loss does not depend on the policy's parameters; their gradient is 0, and so is what Adam does to them.
    """
    made = []
    for _ in range(epochs):
        for values, targets, valid in _minibatches(network, batch, targets_TB, rng, minibatch_size):
            loss = mean((values - targets).square(), valid)
            optimiser.step(loss, learning_rate)
            made.append(loss.detach())
    return len(made), torch.stack(made).mean()


def _minibatches(
    network: ActorCritic, batch: Mapping[str, Tensor], targets_TB: Tensor, rng: np.random.Generator, size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Values as they are now, targets and valid; whole unrolls stay together where the network remembers."""
    obs, valid_TB = batch["obs"][:-1], batch["valid"].float()
    T, B = valid_TB.shape
    if network.memory:
        order = torch.from_numpy(rng.permutation(B)).to(valid_TB.device)
        for chosen in order.split(max(1, size // T)):
            part = {name: column[:, chosen] for name, column in batch.items() if name in ("obs", "memory", "valid")}
            yield network.values(part)[:-1], targets_TB[:, chosen], valid_TB[:, chosen]
        return
    rows, targets, valid = obs.flatten(0, 1), targets_TB.flatten(), valid_TB.flatten()
    for chosen in torch.from_numpy(rng.permutation(T * B)).to(valid.device).split(size):
        yield network.value(rows[chosen]), targets[chosen], valid[chosen]
