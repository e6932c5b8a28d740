"""Settings that algorithms share: what their networks are made of. An algorithm's own Config extends one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from core.fields import Settings, bounded
from core.rl.mlp import Activation
from core.rl.precision import Precision

PolicyKind = Literal["auto", "gaussian", "state_gaussian", "squashed", "deterministic"]


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """From observations to the heads."""

    network: str = "auto"
    """What turns observations into features: flat, nature, pong or a registered one; auto: nature for images."""
    hidden: tuple[int, ...] = bounded((64, 64), low=1)
    """Widths of the hidden layers behind the features."""
    activation: Activation = "tanh"
    """Between the layers."""
    precision: Precision = "auto"
    """Of images' layers: float32, bfloat16, or auto: bfloat16 where the processor multiplies in it."""
    normalise_observations: bool = False
    """To mean 0 and deviation 1, by statistics that the learner keeps of what it learns from."""


@dataclass(frozen=True)
class PolicySettings(NetworkSettings):
    """A policy and a value."""

    shared_trunk: bool = False
    """One network for policy and value, or one each."""
    distribution: PolicyKind = "auto"
    """Of actions in a box: gaussian with one deviation, state_gaussian, squashed by tanh, or deterministic."""
    initial_log_std: float = bounded(0.0, low=-20, high=2)
    """Logarithm of the deviation that gaussian actions have before training."""
    recurrent: int | None = bounded(None, low=1)
    """Units of an LSTM between the features and the hidden layers; null: none."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        if self.initial_log_std and self.distribution not in ("auto", "gaussian"):
            yield f"initial_log_std: is for gaussian actions, a {self.distribution} policy has none; leave it out"


@dataclass(frozen=True)
class OnPolicySettings(PolicySettings):
    """What is learned from the policy's own unrolls."""

    gamma: float = bounded(0.99, low=0, high=1)
    """Discount factor."""
    max_grad_norm: float | None = bounded(0.5, above=0)
    """The gradient's norm is clipped to it; null: never."""
    clip_rewards: bool = False
    """Learn from the sign of rewards, as is usual for Atari; reported returns stay true."""
    normalise_rewards: bool = False
    """Divide rewards by the running deviation of discounted returns; reported returns stay true."""

    def contradictions(self) -> Iterable[str]:
        """Fields that exclude each other."""
        yield from super().contradictions()
        if self.clip_rewards and self.normalise_rewards:
            yield "clip_rewards: rewards cannot be both their sign and divided by a deviation; leave one out"
