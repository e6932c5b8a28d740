"""Networks: MLPs with policy, value and Q heads.

Initial parameters come from torch's global generator, which the caller seeds. Observations are arrays of any shape,
float32 or uint8 (scaled to [0, 1]); they are flattened.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.rl.distributions import Categorical, DiagonalGaussian, Distribution
from core.rl.mlp import MLP, Activation
from core.specs import EnvSpec


class VectorInput(nn.Module):
    """Observations [..., *shape] as float32 vectors [..., size]."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        if spec.observation.dtype not in ("float32", "uint8"):
            raise ConfigError(
                f"{spec.id}: observations are {spec.observation.dtype}; MLP networks take float32 or uint8 arrays"
            )
        self.axes = len(spec.observation.shape)
        self.size = spec.observation.size

    def forward(self, obs: Tensor) -> Tensor:
        """[..., *shape] to [..., size]; uint8 becomes [0, 1]."""
        if self.axes != 1:
            obs = obs.reshape(*obs.shape[: obs.ndim - self.axes], self.size)
        return obs.float() / 255 if obs.dtype == torch.uint8 else obs


class ActorCritic(nn.Module):
    """A policy and a value, on one shared trunk or on two separate ones.

    A discrete action space gets a `Categorical`, a box a `DiagonalGaussian` with a state-independent deviation that
    starts at 1. Gains as usual (Andrychowicz 2021, "What matters"): hidden sqrt 2, policy 0.01, value 1.
    """

    def __init__(self, spec: EnvSpec, hidden: Sequence[int], activation: Activation, shared_trunk: bool) -> None:
        super().__init__()
        self.input, self.action = VectorInput(spec), spec.action
        self.discrete = spec.action.kind == "discrete"
        self.outputs = spec.action.n if self.discrete else spec.action.array.size
        sizes = (self.input.size, *hidden)
        if shared_trunk:
            self.both = MLP((*sizes, self.outputs + 1), activation, 1.0)
            nn.init.orthogonal_(self.both.params()[-2][: self.outputs], 0.01)
        else:
            self.actor = MLP((*sizes, self.outputs), activation, 0.01)
            self.critic = MLP((*sizes, 1), activation, 1.0)
        self.shared_trunk = shared_trunk
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(self.outputs))

    def _distribution(self, outputs: Tensor) -> Distribution:
        if self.discrete:
            return Categorical.from_logits(outputs)
        return DiagonalGaussian(outputs.float(), self.log_std)

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """The action distribution [...] and the value [...], fp32, of observations [..., *shape]."""
        x = self.input(obs)
        if self.shared_trunk:
            outputs, value = self.both(x).split((self.outputs, 1), -1)
        else:
            outputs, value = self.actor(x), self.critic(x)
        return self._distribution(outputs), value.squeeze(-1).float()

    def policy(self, obs: Tensor) -> Distribution:
        """The action distribution alone."""
        x = self.input(obs)
        return self._distribution(self.both(x)[..., : self.outputs] if self.shared_trunk else self.actor(x))

    def value(self, obs: Tensor) -> Tensor:
        """The value alone [...], fp32."""
        x = self.input(obs)
        outputs: Tensor = self.both(x)[..., self.outputs] if self.shared_trunk else self.critic(x).squeeze(-1)
        return outputs.float()


class QNetwork(nn.Module):
    """Q-values of A discrete actions; `dueling` adds a state value to centred advantages (Wang 2016, eq. 9)."""

    def __init__(self, spec: EnvSpec, hidden: Sequence[int], activation: Activation, dueling: bool) -> None:
        super().__init__()
        if spec.action.kind != "discrete":
            raise ConfigError(f"{spec.id}: Q-learning needs discrete actions, this has {spec.action}; ppo can use it")
        self.input, self.action = VectorInput(spec), spec.action
        self.dueling = dueling
        self.layers = MLP((self.input.size, *hidden, spec.action.n + int(dueling)), activation, 1.0)

    def forward(self, obs: Tensor) -> Tensor:
        """Q-values [..., A], fp32, of observations [..., *shape]."""
        q: Tensor = self.layers(self.input(obs)).float()
        if self.dueling:
            q = q[..., 1:] + (q[..., :1] - q[..., 1:].mean(-1, keepdim=True))
        return q
