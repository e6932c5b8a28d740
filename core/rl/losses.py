"""The loss of an actor and a critic, from advantages and value targets that are given. Pure.

    -E[log pi(a|s) A] + c_v E[(V(s) - target)^2] - c_e E[entropy]
No gradient goes through A or the target; all means are over valid rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.rl.distributions import Distribution


class Losses(NamedTuple):
    """The total to descend, and its parts without gradient: scalars."""

    total: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over rows with `valid` 1; 0 where there is none."""
    return torch.dot(valid.flatten(), values.flatten()) / valid.sum().clamp(min=1)


def normalised(values: Tensor, valid: Tensor) -> Tensor:
    """To mean 0 and deviation 1 over valid rows."""
    centred = values - mean(values, valid)
    return centred / (mean(centred.square(), valid).sqrt() + 1e-8)


def actor_critic_loss(
    policy: Distribution,
    gains_TB: Tensor,
    values_TB: Tensor,
    targets_TB: Tensor,
    valid_TB: Tensor,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Losses:
    """The loss at T x B rows; `values_TB` has T rows here. `gains_TB` is what the policy ascends, log pi(a|s) A."""
    policy_loss = -mean(gains_TB, valid_TB)
    value_loss = mean((values_TB - targets_TB.detach()).square(), valid_TB)
    entropy = mean(policy.entropy(), valid_TB)
    total = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    return Losses(total, policy_loss.detach(), value_loss.detach(), entropy.detach())


def figures(losses: Losses, grad_norm: Tensor) -> dict[str, float]:
    """Metrics of one optimiser step; the one place that waits for the device."""
    names = ("loss", "policy_loss", "value_loss", "entropy", "grad_norm")
    return dict(zip(names, torch.stack((losses.total.detach(), *losses[1:], grad_norm)).tolist(), strict=True))
