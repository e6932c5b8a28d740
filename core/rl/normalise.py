"""Running statistics: of observations and of returns. Modules of buffers, so they travel with the weights.

The learner alone changes them, from the unrolls that it learns from; actors and evaluation read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.rl.scan import scan
from core.rl.settings import OnPolicySettings, PolicySettings

LIMIT = 10.0
"""What is normalised stays within plus and minus this."""


class RunningMoments(nn.Module):
    """Mean and variance of vectors [size] by the parallel update of Chan 1979; variance 1 before anything was seen."""

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to mean 0 and deviation 1, within LIMIT."""
        return ((x - self.mean) * torch.rsqrt(self.variance + 1e-8)).clamp(-LIMIT, LIMIT)

    @torch.no_grad()
    def observe(self, x_NS: Tensor, valid_N: Tensor) -> None:
        """Take N vectors in, those with `valid` 0 left out."""
        weights_N1 = valid_N.double().unsqueeze(-1)
        new = weights_N1.sum()
        if new == 0:
            return
        x_NS = x_NS.double()
        mean = (weights_N1 * x_NS).sum(0) / new
        variance = (weights_N1 * (x_NS - mean).square()).sum(0) / new
        old, before = self.count.double(), self.mean.double()
        share = new / (old + new)
        spread = self.variance.double() * (1 - share) + variance * share
        spread += (mean - before).square() * share * (1 - share)
        self.variance.copy_(torch.where(old == 0, variance, spread))
        self.mean.copy_(before + (mean - before) * share)
        self.count.add_(new.float())


class ReturnScale(nn.Module):
    """The deviation of discounted returns, by which rewards are divided (as in OpenAI's baselines, VecNormalize).

    A return runs on from one unroll of an environment to its next; it begins anew where the number of columns changes.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.moments = RunningMoments(1)
        self._gamma = gamma
        self._carried_B: Tensor | None = None

    def forward(self, rewards_TB: Tensor) -> Tensor:
        """Scaled rewards."""
        scaled: Tensor = rewards_TB * torch.rsqrt(self.moments.variance + 1e-8)
        return scaled.clamp(-LIMIT, LIMIT)

    @torch.no_grad()
    def observe(self, rewards_TB: Tensor, valid_TB: Tensor) -> None:
        """Take the unrolls' discounted sums of past rewards in; a row that is no step begins a new sum."""
        B = rewards_TB.shape[1]
        carried_B = self._carried_B
        if carried_B is None or len(carried_B) != B:
            carried_B = torch.zeros_like(rewards_TB[0])
        sums_TB = scan((valid_TB * rewards_TB).flip(0), (self._gamma * valid_TB).flip(0)).flip(0)
        sums_TB = sums_TB + (self._gamma * valid_TB).cumprod(0) * carried_B
        self._carried_B = sums_TB[-1].clone()
        self.moments.observe(sums_TB.reshape(-1, 1), valid_TB.reshape(-1))


class Rewards(nn.Module):
    """The rewards [T, B] to learn from: as they are, their sign, or divided by the deviation of returns."""

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self._sign, self.scale = False, None
        if isinstance(settings, OnPolicySettings):
            self._sign = settings.clip_rewards
            self.scale = ReturnScale(settings.gamma) if settings.normalise_rewards else None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of a batch of unrolls."""
        rewards_TB = batch["reward"]
        if self._sign:
            return rewards_TB.sign()
        return rewards_TB if self.scale is None else self.scale(rewards_TB)

    def observe(self, batch: Mapping[str, Tensor]) -> None:
        """Take the batch into the statistics, if any."""
        if self.scale is not None:
            self.scale.observe(batch["reward"], batch["valid"].float())
