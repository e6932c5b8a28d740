"""Networks with a value for each action.

Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.rl.mlp import MLP
from core.rl.noisy import NoisyMLP
from core.rl.return_models import Expectation, ReturnModel
from core.rl.settings import NetworkSettings
from core.rl.torsos import action_mask, make_torso
from core.specs import EnvSpec


class QNetwork(nn.Module):
    """Returns of A discrete actions, as `model` describes them: one number each, or a distribution.

    `dueling` adds a state's part to centred advantages (Wang 2016, eq. 9), for a distribution in each of its numbers.
    `noise` is the initial deviation of noisy layers; None makes plain ones. Raises ConfigError for other actions.
    """

    def __init__(
        self,
        spec: EnvSpec,
        settings: NetworkSettings,
        dueling: bool,
        model: ReturnModel | None = None,
        noise: float | None = None,
    ) -> None:
        super().__init__()
        if spec.action.kind != "discrete":
            raise ConfigError(f"{spec.id}: Q-learning needs discrete actions, this has {spec.action}; ppo can use it")
        self.torso = make_torso(spec, settings.network, settings.normalise_observations)
        self.torso.compute_in(settings.precision)
        self.action, self.legal, self.dueling = spec.action, action_mask(spec), dueling
        self.model: ReturnModel = model or Expectation()
        outputs = (spec.action.n + int(dueling)) * self.model.outputs
        sizes = (self.torso.size, *settings.hidden, outputs)
        self.layers: MLP | NoisyMLP
        if noise is None:
            self.layers = MLP(sizes, settings.activation, 1.0)
        else:
            self.layers = NoisyMLP(sizes, settings.activation, noise)

    def forward(self, obs: Tensor) -> Tensor:
        """Expected returns Q [..., A], fp32, of observations [..., *shape]."""
        return self.model.q(self.returns(obs))

    def returns(self, obs: Tensor) -> Tensor:
        """The model's numbers [..., A, outputs], fp32."""
        found: Tensor = self.layers(self.torso(obs)).float()
        found = found.unflatten(-1, (-1, self.model.outputs))
        if self.dueling:
            advantages = found[..., 1:, :]
            found = advantages + (found[..., :1, :] - advantages.mean(-2, keepdim=True))
        return found

    def best(self, obs: Tensor) -> Tensor:
        """The highest Q-value [...] among the legal actions."""
        return self.among_legal(self(obs), obs).amax(-1)

    def among_legal(self, q: Tensor, obs: Tensor) -> Tensor:
        """Q-values [..., A] with the lowest number there is for actions that are not legal."""
        return q if self.legal is None else q.masked_fill(~self.legal(obs), torch.finfo(q.dtype).min)

    def explore(self, rng: np.random.Generator | None) -> None:
        """Draw new noise for noisy layers; None takes it away."""
        if isinstance(self.layers, MLP):
            return
        if rng is None:
            self.layers.still()
        else:
            self.layers.draw(rng)
