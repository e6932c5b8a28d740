"""Heads of policies: from a network's last numbers to a distribution over the environment's actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.rl.distributions import (
    Categorical,
    Deterministic,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
)
from core.rl.settings import PolicyKind
from core.rl.torsos import action_mask
from core.specs import EnvSpec

ILLEGAL = -1e9
"""Logit of an action that is not legal: its probability is 0 in fp32, and its gradient 0, without any NaN."""
LOG_STD_RANGE = (-5.0, 2.0)
"""Of a deviation that depends on the state."""


class PolicyHead(nn.Module):
    """Distributions from `outputs` numbers a row.

    Discrete actions get a softmax, several discrete choices one each, boxes what `kind` says: gaussian with a deviation
    that does not depend on the state and starts at exp(initial_log_std), state_gaussian, squashed (its deviation
    depends on the state, too) or deterministic (tanh, stretched to the box where it is bounded).

    Raises ConfigError for what does not fit the actions.
    """

    def __init__(self, spec: EnvSpec, kind: PolicyKind, initial_log_std: float = 0.0) -> None:
        super().__init__()
        action = spec.action
        self.spec, self.legal = action, action_mask(spec)
        if action.kind != "box":
            if kind != "auto":
                raise ConfigError(
                    f"distribution: {kind} is for actions in a box, {spec.id} has {action}; leave it at auto"
                )
            if initial_log_std:
                raise ConfigError(
                    f"initial_log_std: {initial_log_std:g} is for boxes, {spec.id} has {action}; leave it at 0"
                )
            self.kind, self.outputs = str(action.kind), action.n
            return
        self.kind = "gaussian" if kind == "auto" else str(kind)
        size = action.array.size
        self.outputs = 2 * size if self.kind in ("state_gaussian", "squashed") else size
        if self.kind == "gaussian":
            self.log_std = nn.Parameter(torch.full((size,), initial_log_std))
        bounded = all(map(math.isfinite, (*action.low, *action.high)))
        if self.kind == "squashed" and not bounded:
            raise ConfigError(f"distribution: squashed needs bounds, {spec.id} has actions without; use gaussian")
        low, high = (
            torch.tensor(bound if bounded else [x] * size) for bound, x in ((action.low, -1.0), (action.high, 1.0))
        )
        self._bounded, self._middle, self._half = bounded, (low + high) / 2, (high - low) / 2

    def forward(self, outputs: Tensor, obs: Tensor) -> Distribution:
        """The distribution [...] of outputs [..., outputs] at observations [..., *shape] (for their action mask)."""
        if self.kind in ("discrete", "multi_discrete"):
            if self.legal is not None:
                outputs = outputs.float().masked_fill(~self.legal(obs), ILLEGAL)
            if self.kind == "discrete":
                return Categorical.from_logits(outputs)
            return MultiCategorical.from_logits(outputs, self.spec.nvec)
        return self._in_box(outputs.float())

    def _in_box(self, outputs: Tensor) -> Distribution:
        if self.kind == "gaussian":
            return DiagonalGaussian(outputs, self.log_std)
        middle, half = self._middle.to(outputs.device), self._half.to(outputs.device)
        if self.kind == "deterministic":
            return Deterministic(middle + half * torch.tanh(outputs) if self._bounded else outputs)
        mean, log_std = outputs.chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        if self.kind == "state_gaussian":
            return DiagonalGaussian(mean, log_std)
        return SquashedGaussian(mean, log_std, middle, half)
