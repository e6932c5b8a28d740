"""Networks with a policy, and with a policy and a value. Q-networks: core/rl/qnetworks.py.

From observations to a body (a torso of core/rl/torsos.py, with `recurrent` an LSTM behind it), hidden layers, a head.
Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from core.rl.distributions import Distribution
from core.rl.heads import PolicyHead
from core.rl.lstm import LSTM
from core.rl.mlp import MLP
from core.rl.normalise import Rewards
from core.rl.settings import NetworkSettings, PolicySettings
from core.rl.torsos import make_torso
from core.specs import EnvSpec


class Outputs(NamedTuple):
    """Of a batch of unrolls: the action distribution at its T rows, and values [T + 1, B] or [T + 1, B, A], fp32."""

    policy: Distribution
    values_TB: Tensor


class Body(nn.Module):
    """A torso, and an LSTM behind it where `recurrent` says so; `memory` is the size of its memory, 0 without."""

    def __init__(self, spec: EnvSpec, settings: NetworkSettings, recurrent: int | None = None) -> None:
        super().__init__()
        self.torso = make_torso(spec, settings.network, settings.normalise_observations)
        self.torso.compute_in(settings.precision)
        self.size = self.torso.size if recurrent is None else recurrent
        self.memory = 2 * (recurrent or 0)
        self.lstm = None if recurrent is None else LSTM(self.torso.size, recurrent)

    def forward(self, obs: Tensor) -> Tensor:
        """Features [..., size] of observations [..., *shape], without a memory."""
        if self.lstm is not None:
            raise ConfigError("recurrent: a policy with memory acts step by step and learns from whole unrolls")
        features: Tensor = self.torso(obs)
        return features

    def step(self, obs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features [B, size] of one row, and the memory [B, memory] after it; None begins an episode."""
        features: Tensor = self.torso(obs)
        if self.lstm is None:
            return features, None
        if memory is None:
            memory = features.new_zeros(len(features), self.memory)
        return self.lstm.step(features, memory)

    def over(self, obs: Tensor, memory: Tensor | None, valid_TB: Tensor) -> Tensor:
        """Features [T, B, size] along unrolls, from the memory [B, memory] of their first row on."""
        features: Tensor = self.torso(obs)
        if self.lstm is None:
            return features
        if memory is None:
            memory = features.new_zeros(features.shape[1], self.memory)
        return self.lstm.over(features, memory, valid_TB)


class PolicyNetwork(nn.Module):
    """A policy alone, for what learns no value."""

    def __init__(self, spec: EnvSpec, settings: PolicySettings) -> None:
        super().__init__()
        self.body, self.action = Body(spec, settings, settings.recurrent), spec.action
        self.head = PolicyHead(spec, settings.distribution, settings.initial_log_std)
        self.actor = MLP((self.body.size, *settings.hidden, self.head.outputs), settings.activation, 0.01)
        self.memory, self.rewards = self.body.memory, Rewards(settings)

    def policy(self, obs: Tensor) -> Distribution:
        """The action distribution [...] of observations [..., *shape]."""
        distribution: Distribution = self.head(self.actor(self.body(obs)), obs)
        return distribution

    def act(self, obs: Tensor, memory: Tensor | None) -> tuple[Distribution, Tensor | None]:
        """The distribution [B] of one row, and the memory after it (None where there is none)."""
        features, memory = self.body.step(obs, memory)
        return self.head(self.actor(features), obs), memory

    def over(self, batch: Mapping[str, Tensor]) -> Distribution:
        """The distribution [T, B] along a batch of unrolls; `obs` [T + 1, B, ...]."""
        obs = batch["obs"][:-1]
        features = self.body.over(obs, _first(batch), batch["valid"].float())
        distribution: Distribution = self.head(self.actor(features), obs)
        return distribution

    def observe(self, batch: Mapping[str, Tensor]) -> None:
        """Take the batch into the statistics of observations and returns; for the end of an update."""
        self.body.torso.observe(batch["obs"][:-1], batch["valid"])
        self.rewards.observe(batch)


class ActorCritic(nn.Module):
    """A policy and a value, on one shared trunk or on two separate ones.

    Gains as usual (Andrychowicz 2021, "What matters"): hidden sqrt 2, policy 0.01, value 1. With `critic_outputs` above
    1 every value has one more axis of that length, such as one for each action. Raises ConfigError for settings that do
    not fit the environment.
    """

    def __init__(self, spec: EnvSpec, settings: PolicySettings, critic_outputs: int = 1) -> None:
        super().__init__()
        if settings.distribution == "deterministic":
            raise ConfigError(
                "distribution: a deterministic policy has no log-probabilities to follow the gradient of; use gaussian "
                "or squashed here, or train a deterministic one with es, finite_difference or bc"
            )
        self.body, self.action = Body(spec, settings, settings.recurrent), spec.action
        self.head = PolicyHead(spec, settings.distribution, settings.initial_log_std)
        self.outputs, self.critic_outputs = self.head.outputs, critic_outputs
        self.shared_trunk = settings.shared_trunk
        sizes = (self.body.size, *settings.hidden)
        if self.shared_trunk:
            self.both = MLP((*sizes, self.outputs + critic_outputs), settings.activation, 1.0)
            nn.init.orthogonal_(self.both.params()[-2][: self.outputs], 0.01)
        else:
            same = not list(self.body.parameters())  # nothing that could be learned apart
            self.critic_body = self.body if same else Body(spec, settings, settings.recurrent)
            self.actor = MLP((*sizes, self.outputs), settings.activation, 0.01)
            self.critic = MLP((*sizes, critic_outputs), settings.activation, 1.0)
        self.memory = self.body.memory * (1 if self.shared_trunk else 2)
        self.rewards = Rewards(settings)

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """The action distribution [...] and the value [...], fp32, of observations [..., *shape]."""
        if self.shared_trunk:
            outputs, value = self.both(self.body(obs)).split((self.outputs, self.critic_outputs), -1)
        else:
            outputs, value = self.actor(self.body(obs)), self.critic(self.critic_body(obs))
        return self.head(outputs, obs), self._shaped(value)

    def policy(self, obs: Tensor) -> Distribution:
        """The action distribution alone."""
        return self._policy(self.body(obs), obs)

    def value(self, obs: Tensor) -> Tensor:
        """The value alone [...], fp32."""
        return self._value(self.body(obs) if self.shared_trunk else self.critic_body(obs))

    def act(self, obs: Tensor, memory: Tensor | None) -> tuple[Distribution, Tensor | None]:
        """The distribution [B] of one row, and the memory [B, memory] after it (None where there is none)."""
        mine, its = self._split(memory)
        features, mine = self.body.step(obs, mine)
        if mine is not None and not self.shared_trunk:
            its = self.critic_body.step(obs, its)[1]
            mine = mine if its is None else torch.cat((mine, its), -1)
        return self._policy(features, obs), mine

    def over(self, batch: Mapping[str, Tensor], last_row: bool = False) -> Outputs:
        """Policy and values along a batch of unrolls; `obs` [T + 1, B, ...], with an LSTM `memory` [1, B, memory].

        With `last_row` the policy has T + 1 rows, too.
        """
        obs, valid_TB = batch["obs"], batch["valid"].float()
        acted = obs if last_row else obs[:-1]
        mine, its = self._split(_first(batch))
        if self.shared_trunk:
            both = self.both(self.body.over(obs, mine, valid_TB))
            outputs, values = both.split((self.outputs, self.critic_outputs), -1)
            return Outputs(self.head(outputs[: len(acted)], acted), self._shaped(values))
        policy = self._policy(self.body.over(acted, mine, valid_TB), acted)
        return Outputs(policy, self._value(self.critic_body.over(obs, its, valid_TB)))

    def along(self, obs: Tensor, memory: Tensor, valid_TB: Tensor) -> tuple[Distribution, Tensor]:
        """Policy and values [T x B] at the rows of unrolls [T, B, ...], from the `memory` of their first row on."""
        mine, its = self._split(memory)
        features = self.body.over(obs, mine, valid_TB).flatten(0, 1)
        policy = self._policy(features, obs.flatten(0, 1))
        if not self.shared_trunk:
            features = self.critic_body.over(obs, its, valid_TB).flatten(0, 1)
        return policy, self._value(features)

    def policies(self, batch: Mapping[str, Tensor]) -> Distribution:
        """The policy [T, B] along a batch of unrolls, without the value."""
        obs = batch["obs"][:-1]
        if not self.memory:
            return self.policy(obs)
        return self._policy(self.body.over(obs, self._split(_first(batch))[0], batch["valid"].float()), obs)

    def values(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Values [T + 1, B] along a batch of unrolls."""
        if not self.memory:
            return self.value(batch["obs"])
        mine, its = self._split(_first(batch))
        body, memory = (self.body, mine) if self.shared_trunk else (self.critic_body, its)
        return self._value(body.over(batch["obs"], memory, batch["valid"].float()))

    def observe(self, batch: Mapping[str, Tensor]) -> None:
        """Take the batch into the statistics of observations and returns; for the end of an update."""
        self.body.torso.observe(batch["obs"][:-1], batch["valid"])
        if not self.shared_trunk and self.critic_body is not self.body:
            self.critic_body.torso.observe(batch["obs"][:-1], batch["valid"])
        self.rewards.observe(batch)

    def _policy(self, features: Tensor, obs: Tensor) -> Distribution:
        outputs = self.both(features)[..., : self.outputs] if self.shared_trunk else self.actor(features)
        distribution: Distribution = self.head(outputs, obs)
        return distribution

    def _value(self, features: Tensor) -> Tensor:
        return self._shaped(self.both(features)[..., self.outputs :] if self.shared_trunk else self.critic(features))

    def _shaped(self, values: Tensor) -> Tensor:
        return (values.squeeze(-1) if self.critic_outputs == 1 else values).float()

    def _split(self, memory: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The memories of the policy and of the value."""
        if memory is None or self.shared_trunk:
            return memory, None
        mine, its = memory.chunk(2, -1)
        return mine, its


def _first(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The memory of the unrolls' first row; whole episodes begin with none and record none."""
    return batch["memory"][0] if "memory" in batch else None
