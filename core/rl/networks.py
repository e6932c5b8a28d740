"""Networks with a policy and a value. Q-networks: core/rl/qnetworks.py.

Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.rl.distributions import Categorical, DiagonalGaussian, Distribution
from core.rl.mlp import MLP
from core.rl.settings import PolicySettings
from core.rl.torsos import action_mask, make_torso
from core.specs import EnvSpec


class Outputs(NamedTuple):
    """Of a batch of unrolls: the action distribution at its T rows, and values [T + 1, B], fp32."""

    policy: Distribution
    values_TB: Tensor


class ActorCritic(nn.Module):
    """A policy and a value, on one shared trunk or on two separate ones.

    A discrete action space gets a `Categorical`, a box a `DiagonalGaussian` with a state-independent deviation that
    starts at 1. Gains as usual (Andrychowicz 2021, "What matters"): hidden sqrt 2, policy 0.01, value 1.
    """

    def __init__(self, spec: EnvSpec, settings: PolicySettings) -> None:
        super().__init__()
        self.torso, self.action, self.legal = make_torso(spec, settings.network), spec.action, action_mask(spec)
        self.discrete = spec.action.kind == "discrete"
        self.outputs = spec.action.n if self.discrete else spec.action.array.size
        sizes = (self.torso.size, *settings.hidden)
        self.shared_trunk = settings.shared_trunk
        if self.shared_trunk:
            self.both = MLP((*sizes, self.outputs + 1), settings.activation, 1.0)
            nn.init.orthogonal_(self.both.params()[-2][: self.outputs], 0.01)
        else:
            self.critic_torso = make_torso(spec, settings.network)
            self.actor = MLP((*sizes, self.outputs), settings.activation, 0.01)
            self.critic = MLP((*sizes, 1), settings.activation, 1.0)
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(self.outputs))

    def _distribution(self, outputs: Tensor) -> Distribution:
        if self.discrete:
            return Categorical.from_logits(outputs)
        return DiagonalGaussian(outputs.float(), self.log_std)

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """The action distribution [...] and the value [...], fp32, of observations [..., *shape]."""
        if self.shared_trunk:
            outputs, value = self.both(self.torso(obs)).split((self.outputs, 1), -1)
        else:
            outputs, value = self.actor(self.torso(obs)), self.critic(self.critic_torso(obs))
        return self._distribution(outputs), value.squeeze(-1).float()

    def policy(self, obs: Tensor) -> Distribution:
        """The action distribution alone."""
        x = self.torso(obs)
        return self._distribution(self.both(x)[..., : self.outputs] if self.shared_trunk else self.actor(x))

    def value(self, obs: Tensor) -> Tensor:
        """The value alone [...], fp32."""
        if self.shared_trunk:
            outputs: Tensor = self.both(self.torso(obs))[..., self.outputs]
        else:
            outputs = self.critic(self.critic_torso(obs)).squeeze(-1)
        return outputs.float()

    def over(self, batch: Mapping[str, Tensor]) -> Outputs:
        """Policy and values along a batch of unrolls; `obs` [T + 1, B, ...]."""
        obs = batch["obs"]
        if self.shared_trunk:
            outputs_TBA, values_TB1 = self.both(self.torso(obs)).split((self.outputs, 1), -1)
            return Outputs(self._distribution(outputs_TBA[:-1]), values_TB1.squeeze(-1).float())
        return Outputs(self.policy(obs[:-1]), self.value(obs))

    def observe(self, batch: Mapping[str, Tensor]) -> None:
        """Take the batch into the statistics that normalise observations; for the end of an update."""
