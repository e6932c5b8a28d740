"""DAgger: dataset aggregation (Ross 2011, algorithm 3.1).

    actors roll a mixture: with probability beta the expert's action, else the student's
    the expert labels every state that was visited; all labels of all rounds are kept
    the student is fitted to all of them: loss = -E[log pi(expert's action | s)]
So the student learns on the states that its own policy leads to, which bc's data does not have. Labels are made on the
actors, by a run of Shoal (`expert: runs/x`, its best checkpoint) or any function (`expert: package.module:function`).
The table never evicts. beta falls linearly from `beta_start` to 0.

Differences from the paper: rounds overlap, as actors take the newest weights; the student is trained on, not anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from core.algorithms.bc import ImitationSettings, imitate, kept
from core.algorithms.contract import Batch
from core.algorithms.expert import Expert, load_expert
from core.fields import bounded
from core.rl.acting import sampling
from core.rl.networks import PolicyNetwork
from core.rl.optim import Adam
from core.rl.schedules import linear
from core.specs import EnvSpec
from core.types import Array, Async, Columns, Context, Plan, Policy, Result, Rows, Step, Task

EXPERT_STREAM = 1 << 31
"""Added to the slot for the coins of the mixture; slots are smaller, so they are nobody else's."""


@dataclass(frozen=True)
class DaggerConfig(ImitationSettings):
    """DAgger's settings."""

    expert: str = ""
    """A run directory, or package.module:function from observations [N, ...] to actions [N, ...]."""
    beta_start: float = bounded(1.0, low=0, high=1)
    """Share of the expert's actions in what actors do, at the start."""
    beta_anneal_env_steps: int = bounded(10_000, low=1)
    """Env steps until it is 0."""

    def contradictions(self) -> Iterable[str]:
        """An expert must be named."""
        yield from super().contradictions()
        if not self.expert:
            yield "expert: must be a run directory or package.module:function; without one, use bc and a dataset"


class Dagger:
    """The contract's six methods."""

    Config = DaggerConfig

    def __init__(self, config: DaggerConfig) -> None:
        self.config = config
        self._expert: Expert | None = None

    def plan(self) -> Plan:
        """Unrolls of the student, relabelled, into a table that keeps everything."""
        return Plan(Rows(self.config.unroll_length), kept(self.config), Async())

    def network(self, spec: EnvSpec) -> PolicyNetwork:
        """A policy. Raises ConfigError where the expert is missing, or of another kind of environment."""
        self._expert = load_expert(self.config.expert, spec)
        return PolicyNetwork(spec, self.config)

    def policy(self, network: PolicyNetwork, task: Task) -> Policy:
        """The student, and now and then the expert."""
        student = sampling(network, task, self.config.unroll_length, record=False)
        beta = linear(self.config.beta_start, 0.0, task.env_steps / self.config.beta_anneal_env_steps)
        if not (task.explore and beta):
            return student
        rng = task._replace(slot=task.slot + EXPERT_STREAM).rng()  # apart from what the student draws
        expert = self.expert

        def policy(obs: Array, memory: Array | None) -> Step:
            step = student(obs, memory)
            takes = (rng.random(len(obs)) < beta).reshape(-1, *[1] * (step.action.ndim - 1))
            return step._replace(action=np.where(takes, expert(obs), step.action))

        return policy

    def item(self, network: PolicyNetwork, unroll: Columns, task: Task) -> Columns:
        """The unroll with the expert's actions in place of those taken."""
        obs, action = unroll["obs"][:-1], unroll["action"]
        labels = np.asarray(self.expert(obs.reshape(-1, *obs.shape[2:])), action.dtype)
        return {**unroll, "action": labels.reshape(action.shape)}

    def state(self, network: PolicyNetwork) -> Adam:
        """Adam."""
        return Adam(network)

    def update(self, network: PolicyNetwork, state: Adam, batch: Batch, context: Context) -> Result:
        """One step for every `batch_size` rows."""
        return imitate(self.config, network, state, batch, context)

    @property
    def expert(self) -> Expert:
        """Loaded with the network."""
        if self._expert is None:
            raise ValueError("the expert is loaded by network(spec), which was not called")
        return self._expert
