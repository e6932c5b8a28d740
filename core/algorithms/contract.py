"""The contract between an algorithm and the services that run it.

An algorithm owns no socket, thread, clock or file. The services know nothing of it but these six methods and the
`Plan`, so adding one is one file and one line in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from core.specs import EnvSpec
from core.types import Columns, Context, Plan, Policy, Result, Task

Batch = Mapping[str, torch.Tensor]
"""What `update` is given: an unroll batch [T, B, ...] from a queue, or windows [W, N, ...] from a replay table.

A prioritised table adds `probability` [N], float64: with which each item was drawn.
"""


class State(Protocol):
    """All that a checkpoint holds beside the network: optimiser, target network, counters."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of tensors, numbers, strings and None."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; raises KeyError or ValueError on another layout."""
        ...


class Algorithm(Protocol):
    """What is collected, stored, acted and learned."""

    def plan(self) -> Plan:
        """How experience is collected, stored and paced; pure data, the only thing services read."""
        ...

    def network(self, spec: EnvSpec) -> nn.Module:
        """All that an actor needs in order to act; its parameters and buffers are published every round."""
        ...

    def policy(self, network: Any, task: Task) -> Policy:
        """Called on the actor once an unroll: exploration and perturbation are fixed here. Greedy without explore."""
        ...

    def item(self, network: Any, unroll: Columns, task: Task) -> Columns:
        """Called on the actor once an unroll: the columns that are sent (most send the unroll itself)."""
        ...

    def state(self, network: Any) -> Any:
        """A fresh `State` for a fresh network."""
        ...

    def update(self, network: Any, state: Any, batch: Batch, context: Context) -> Result:
        """Called on the learner once a batch: one or many optimiser steps, in place."""
        ...
