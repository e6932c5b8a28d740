"""REINFORCE: the likelihood-ratio gradient of whole episodes (Williams 1992).

    g = 1/N sum over episodes, sum_t grad log pi(a_t|s_t) (G - b)
G is the episode's discounted return, or with `reward_to_go` what is left of it from t on, which leaves out rewards that
the action cannot have caused. `baseline` b lowers the variance and not the expectation:
    none       0
    constant   the mean of the other episodes' G
    time       the mean of the other episodes' G at the same t
    value      V(s_t), learned from G (`value_fit: monte_carlo`) or from r + gamma V(s_{t+1}) (td)
The means leave the episode itself out: with it they would shrink the expected gradient by (N - 1) / N.

Episodes that `max_rows` cuts off count as if they ended there. Acting waits for learning (lag 0): the estimate is of
the policy that acted. Differences from the paper: Adam, an entropy bonus by choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.algorithms.contract import Batch
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.losses import Losses, figures, mean
from core.rl.networks import ActorCritic, PolicyNetwork
from core.rl.optim import Adam
from core.rl.returns import returns_to_go
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Episodes, Lag, Plan, Policy, Queue, Result, Task


@dataclass(frozen=True)
class ReinforceConfig(OnPolicySettings):
    """REINFORCE's settings."""

    max_rows: int = bounded(1000, low=1)
    """Longer episodes are cut off here."""
    learning_rate: float = bounded(1e-2, above=0)
    """Adam's step size."""
    reward_to_go: bool = True
    """Weigh an action with the rewards that follow it, or with the whole episode's."""
    baseline: Literal["none", "constant", "time", "value"] = "value"
    """What is taken off the return."""
    value_fit: Literal["monte_carlo", "td"] = "monte_carlo"
    """What the baseline's value learns from."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the value loss."""
    entropy_coefficient: float = bounded(0.0, low=0)
    """Weight of the entropy bonus."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        yield from super().contradictions()
        if self.baseline != "value" and self.shared_trunk:
            yield f"shared_trunk: baseline {self.baseline} learns no value to share it with; set baseline to value"
        if self.baseline != "value" and self.value_fit != "monte_carlo":
            yield f"value_fit: baseline {self.baseline} learns no value; set baseline to value, or leave it out"


Network = ActorCritic | PolicyNetwork
NOISE_ROWS = 64
"""Of an episode, for which an actor draws its noise at a time."""


class Reinforce:
    """The contract's six methods."""

    Config = ReinforceConfig

    def __init__(self, config: ReinforceConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Whole episodes, one an environment, each used once, by the policy that is being trained."""
        return Plan(Episodes(self.config.max_rows), Queue(), Lag(0))

    def network(self, spec: EnvSpec) -> Network:
        """A policy, with a value where that is the baseline."""
        kind: type[Network] = ActorCritic if self.config.baseline == "value" else PolicyNetwork
        return kind(spec, self.config)

    def policy(self, network: Network, task: Task) -> Policy:
        """Sample."""
        return sampling(network, task, NOISE_ROWS, record=False)

    def item(self, network: Network, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: Network) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: Network, state: Adam, batch: Batch, context: Context) -> Result:
        """One step on all episodes."""
        config = self.config
        losses = loss(config, network, batch)
        norm = state.step(losses.total, config.learning_rate, config.max_grad_norm)
        network.observe(batch)
        return Result(1, figures(losses, norm))


def loss(config: ReinforceConfig, network: Network, batch: Batch) -> Losses:
    """The loss whose gradient is -g, plus the value's and the entropy's parts."""
    valid_TB = batch["valid"].float()
    rewards_TB = network.rewards(batch)
    value_loss = torch.zeros((), device=valid_TB.device)
    if isinstance(network, ActorCritic):
        policy, values_TB = network.over(batch)
        to_go_TB = returns_to_go(rewards_TB, valid_TB, config.gamma)
        targets_TB = to_go_TB
        if config.value_fit == "td":
            targets_TB = rewards_TB + config.gamma * batch["discount"] * values_TB[1:].detach()
        value_loss = mean((values_TB[:-1] - targets_TB).square(), valid_TB)
        weights_TB = returns(config, rewards_TB, valid_TB) - values_TB[:-1].detach()
    else:
        policy = network.over(batch)
        weights_TB = returns(config, rewards_TB, valid_TB)
        weights_TB = weights_TB - baseline(config, weights_TB, valid_TB)
    log_probs_TB = policy.log_prob(from_env(network.action, batch["action"]))
    episodes = valid_TB.amax(0).sum().clamp(min=1)
    policy_loss = -(valid_TB * log_probs_TB * weights_TB).sum() / episodes
    entropy = mean(policy.entropy(), valid_TB)
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return Losses(total, policy_loss.detach(), value_loss.detach(), entropy.detach())


def returns(config: ReinforceConfig, rewards_TB: Tensor, valid_TB: Tensor) -> Tensor:
    """G at every row [T, B]: the rest of the episode's return, or all of it."""
    to_go_TB = returns_to_go(rewards_TB, valid_TB, config.gamma)
    return to_go_TB if config.reward_to_go else to_go_TB[:1].expand_as(to_go_TB)


def baseline(config: ReinforceConfig, returns_TB: Tensor, valid_TB: Tensor) -> Tensor:
    """What is taken off [T, B] or [1, B]: means over the other episodes; 0 where there is no other.

    `time` compares a row with the same row of the episodes that last as long. `constant` is one number an episode: with
    the whole return the mean over episodes, with the reward to go the mean over their rows.
    """
    counted_TB = valid_TB
    if config.baseline == "none":
        return torch.zeros_like(returns_TB[:1])
    if config.baseline == "constant" and not config.reward_to_go:
        counted_TB, returns_TB = valid_TB[:1], returns_TB[:1]
    sums, counts = counted_TB * returns_TB, counted_TB
    if config.baseline == "constant":
        sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    others = counts.sum(1, keepdim=True) - counts
    return (sums.sum(1, keepdim=True) - sums) / others.clamp(min=1)
