"""What a Q-network says of the return: its expectation, a distribution over fixed values, or quantiles. Pure.

Each model has, for N transitions and A actions with `outputs` numbers an action:
    q(outputs [..., A, outputs])              expected returns [..., A]
    targets(chosen [N, outputs], R, f)        what Q(s, a) learns from: R + f Z(s', a'), without gradient
    losses(chosen [N, outputs], targets)      one loss a transition [N]
    priorities(chosen, targets)               how much an item should be drawn again [N], at least 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class ReturnModel(Protocol):
    """One of the three below."""

    @property
    def outputs(self) -> int:
        """Numbers an action."""
        ...

    def q(self, outputs: Tensor) -> Tensor:
        """Expected returns [..., A]."""
        ...

    def targets(self, chosen: Tensor, returns_N: Tensor, factors_N: Tensor) -> Tensor:
        """What the prediction learns from."""
        ...

    def losses(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """[N]."""
        ...

    def priorities(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """[N]."""
        ...


@dataclass(frozen=True)
class Expectation:
    """One number, the usual Q; Huber loss with threshold 1, or the squared error."""

    huber: bool = True
    outputs: int = 1

    def q(self, outputs: Tensor) -> Tensor:
        """The numbers themselves."""
        return outputs.squeeze(-1)

    def targets(self, chosen: Tensor, returns_N: Tensor, factors_N: Tensor) -> Tensor:
        """R + f Q(s', a') [N]."""
        return torch.addcmul(returns_N, factors_N, chosen.squeeze(-1))

    def losses(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """Of Q(s, a) - y."""
        kind = functional.smooth_l1_loss if self.huber else functional.mse_loss
        return kind(chosen.squeeze(-1), targets, reduction="none")

    def priorities(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """|y - Q(s, a)|."""
        return (targets - chosen.squeeze(-1)).abs()


@dataclass(frozen=True)
class Atoms:
    """C51: probabilities of `atoms` values from `low` to `high` (Bellemare 2017); outputs are logits."""

    atoms: int
    low: float
    high: float

    @property
    def outputs(self) -> int:
        """One logit for each value."""
        return self.atoms

    def values(self, like: Tensor) -> Tensor:
        """The values z [atoms]."""
        return torch.linspace(self.low, self.high, self.atoms, device=like.device)

    def q(self, outputs: Tensor) -> Tensor:
        """Expected returns."""
        return torch.softmax(outputs, -1) @ self.values(outputs)

    def targets(self, chosen: Tensor, returns_N: Tensor, factors_N: Tensor) -> Tensor:
        """The probabilities of R + f z, spread over the nearest values (algorithm 1) [N, atoms]."""
        probabilities = torch.softmax(chosen, -1)
        step = (self.high - self.low) / (self.atoms - 1)
        moved = returns_N.unsqueeze(-1) + factors_N.unsqueeze(-1) * self.values(chosen)
        place = ((moved.clamp(self.low, self.high) - self.low) / step).clamp(0, self.atoms - 1)
        below = place.floor()
        share_above = place - below
        below_index = below.long()
        above_index = (below_index + 1).clamp(max=self.atoms - 1)
        projected = torch.zeros_like(probabilities)
        projected.scatter_add_(-1, below_index, probabilities * (1 - share_above))
        projected.scatter_add_(-1, above_index, probabilities * share_above)
        return projected

    def losses(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return -(targets * torch.log_softmax(chosen, -1)).sum(-1)

    def priorities(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """KL(target || prediction), which is 0 where nothing is left to learn (Hessel 2018)."""
        entropies = -torch.xlogy(targets, targets).sum(-1)
        return (self.losses(chosen, targets) - entropies).clamp(min=0)


@dataclass(frozen=True)
class Quantiles:
    """QR: `quantiles` numbers, the returns at evenly spaced probabilities (Dabney 2018)."""

    quantiles: int

    @property
    def outputs(self) -> int:
        """One number for each quantile."""
        return self.quantiles

    def q(self, outputs: Tensor) -> Tensor:
        """Their mean."""
        return outputs.mean(-1)

    def targets(self, chosen: Tensor, returns_N: Tensor, factors_N: Tensor) -> Tensor:
        """R + f theta(s', a') [N, quantiles]."""
        return torch.addcmul(returns_N.unsqueeze(-1), factors_N.unsqueeze(-1), chosen)

    def losses(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """Quantile Huber loss (eq. 10): summed over predicted quantiles, averaged over those of the target."""
        errors = targets.unsqueeze(1) - chosen.unsqueeze(2)  # [N, predicted, target]
        middles = (torch.arange(self.quantiles, device=chosen.device) + 0.5) / self.quantiles
        weights = (middles.view(1, -1, 1) - (errors.detach() < 0).float()).abs()
        huber = functional.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none")
        return (weights * huber).mean(2).sum(1)

    def priorities(self, chosen: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        return self.losses(chosen, targets)
