"""Networks with a value for each action.

Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.rl.mlp import MLP
from core.rl.settings import NetworkSettings
from core.rl.torsos import action_mask, make_torso
from core.specs import EnvSpec


class QNetwork(nn.Module):
    """Q-values of A discrete actions; `dueling` adds a state value to centred advantages (Wang 2016, eq. 9)."""

    def __init__(self, spec: EnvSpec, settings: NetworkSettings, dueling: bool) -> None:
        super().__init__()
        if spec.action.kind != "discrete":
            raise ConfigError(f"{spec.id}: Q-learning needs discrete actions, this has {spec.action}; ppo can use it")
        self.torso, self.action = make_torso(spec, settings.network, settings.normalise_observations), spec.action
        self.legal, self.dueling = action_mask(spec), dueling
        self.layers = MLP((self.torso.size, *settings.hidden, spec.action.n + int(dueling)), settings.activation, 1.0)

    def forward(self, obs: Tensor) -> Tensor:
        """Q-values [..., A], fp32, of observations [..., *shape]."""
        q: Tensor = self.layers(self.torso(obs)).float()
        if self.dueling:
            q = q[..., 1:] + (q[..., :1] - q[..., 1:].mean(-1, keepdim=True))
        return q

    def best(self, obs: Tensor) -> Tensor:
        """The highest Q-value [...] among the legal actions."""
        return self.among_legal(self(obs), obs).amax(-1)

    def among_legal(self, q: Tensor, obs: Tensor) -> Tensor:
        """Q-values [..., A] with the lowest number there is for actions that are not legal."""
        return q if self.legal is None else q.masked_fill(~self.legal(obs), torch.finfo(q.dtype).min)
