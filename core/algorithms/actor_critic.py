"""Actor-critic: a learned critic in place of the return, one step at a time (Sutton 2000, Konda 2000).

    critic v   A = r + gamma d V(s') - V(s)                    the TD error; V follows its own target
               loss = -E[log pi(a|s) A] + c_v E[(V(s) - (r + gamma d V(s')))^2] - c_e E[entropy]
    critic q   Q_w(s, a) in place of the return, learned by expected SARSA
               y = r + gamma d sum_a' pi(a'|s') Q(s', a')
               loss = -E[log pi(a|s) Q(s, a)] + c_v E[(Q(s, a) - y)^2] - c_e E[entropy]
No gradient goes through targets, or through A and Q in the first terms. Unlike a2c, which sums rewards to the unroll's
end, everything here looks one step ahead: less variance, and all of the critic's bias. Q of the action taken, without a
baseline, pushes up whatever was tried and soon tries nothing else; since Q knows every action, the default is the same
expectation without sampling, sum_a pi(a|s) Q(s, a) (Allen 2017). `all_actions: false` is the lecture's form.

Differences from the papers: Adam, batches of rows instead of single steps, an entropy bonus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from core.algorithms.contract import Batch
from core.errors import ConfigError
from core.fields import bounded
from core.rl.acting import from_env, sampling
from core.rl.distributions import Categorical, Distribution
from core.rl.losses import Losses, actor_critic_loss, figures
from core.rl.networks import ActorCritic
from core.rl.optim import Adam
from core.rl.settings import OnPolicySettings
from core.specs import EnvSpec
from core.types import Columns, Context, Lag, Plan, Policy, Queue, Result, Rows, Task


@dataclass(frozen=True)
class ActorCriticConfig(OnPolicySettings):
    """Actor-critic's settings."""

    unroll_length: int = bounded(8, low=1)
    """Rows of one unroll; it only decides how many steps make a batch."""
    critic: Literal["v", "q"] = "v"
    """A value of states, or one of every action."""
    all_actions: bool = True
    """With critic q: the gradient over all actions, which is exact, or with the action that was taken alone."""
    learning_rate: float = bounded(1e-3, above=0)
    """Adam's step size."""
    value_coefficient: float = bounded(0.5, low=0)
    """Weight of the critic's loss."""
    entropy_coefficient: float = bounded(0.01, low=0)
    """Weight of the entropy bonus."""


class ActorCriticAlgorithm:
    """The contract's six methods."""

    Config = ActorCriticConfig

    def __init__(self, config: ActorCriticConfig) -> None:
        self.config = config

    def plan(self) -> Plan:
        """Short unrolls, each used once, acted by the version before the newest."""
        return Plan(Rows(self.config.unroll_length), Queue(), Lag(1))

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy and a critic. Raises ConfigError for a Q critic of actions that are not discrete."""
        if self.config.critic == "v":
            return ActorCritic(spec, self.config)
        if spec.action.kind != "discrete":
            raise ConfigError(
                f"critic: q has one output for every action, {spec.id} has {spec.action}; set actor_critic.critic to v"
            )
        return ActorCritic(spec, self.config, critic_outputs=spec.action.n)

    def policy(self, network: ActorCritic, task: Task) -> Policy:
        """Sample."""
        return sampling(network, task, self.config.unroll_length, record=False)

    def item(self, network: ActorCritic, unroll: Columns, task: Task) -> Columns:
        """The unroll itself."""
        return unroll

    def state(self, network: ActorCritic) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: ActorCritic, state: Adam, batch: Batch, context: Context) -> Result:
        """One step on the whole batch."""
        losses = loss(self.config, network, batch)
        norm = state.step(losses.total, self.config.learning_rate, self.config.max_grad_norm)
        network.observe(batch)
        return Result(1, figures(losses, norm))


def loss(config: ActorCriticConfig, network: ActorCritic, batch: Batch) -> Losses:
    """The loss of a batch of unrolls, every row for itself."""
    valid_TB = batch["valid"].float()
    actions = from_env(network.action, batch["action"])
    onward_TB = config.gamma * batch["discount"]
    rewards_TB = network.rewards(batch)
    if config.critic == "v":
        policy, values = network.over(batch)
        values_TB = values[:-1]
        targets_TB = torch.addcmul(rewards_TB, onward_TB, values[1:].detach())
        gains_TB = policy.log_prob(actions) * (targets_TB - values_TB.detach())
    else:
        everywhere, q_TBA = network.over(batch, last_row=True)
        probabilities_TBA = _discrete(everywhere).log_probs.exp()
        policy = Categorical(_discrete(everywhere).log_probs[:-1])
        expected_TB = (probabilities_TBA * q_TBA.detach()).sum(-1)
        values_TB = q_TBA[:-1].gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        targets_TB = torch.addcmul(rewards_TB, onward_TB, expected_TB[1:].detach())
        gains_TB = expected_TB[:-1] if config.all_actions else policy.log_prob(actions) * values_TB.detach()
    return actor_critic_loss(
        policy,
        gains_TB,
        values_TB,
        targets_TB,
        valid_TB,
        config.value_coefficient,
        config.entropy_coefficient,
    )


def _discrete(policy: Distribution) -> Categorical:
    if not isinstance(policy, Categorical):
        raise ConfigError("critic: q needs discrete actions; set actor_critic.critic to v")
    return policy
