"""Action distributions as small named tuples of fp32 tensors: the same ones act (with numpy noise) and learn.

Leading axes are free. Noise comes from the unroll's own numpy generator, many rows at once, so that acting costs one
forward and one argmax a row and does not depend on torch's global random state. `mode` is what greedy evaluation does;
`kl(other)` is KL(self || other) [...] in nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.errors import ConfigError

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Categorical(NamedTuple):
    """Softmax over A actions 0 .. A - 1; `log_probs` [..., A] are normalised."""

    log_probs: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor) -> Categorical:
        """Normalise logits [..., A] in fp32, whatever dtype they come in."""
        return cls(torch.log_softmax(logits, -1, dtype=torch.float32))

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Gumbel noise [..., A] for `sample`: minus the logarithm of standard exponentials."""
        return torch.from_numpy(rng.standard_exponential(shape, np.float32)).log_().neg_()

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [...], int64, by the Gumbel-max trick."""
        return (self.log_probs + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most probable action [...], int64."""
        return self.log_probs.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability [...] of int64 `actions` [...]."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy [...] in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL divergence [...] from this one to the other."""
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)


class MultiCategorical(NamedTuple):
    """D independent choices, the d-th among `sizes[d]`; `log_probs` [..., sum(sizes)] side by side, each normalised."""

    log_probs: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def from_logits(cls, logits: Tensor, sizes: tuple[int, ...]) -> MultiCategorical:
        """Normalise the logits [..., sum(sizes)] of every choice by itself, in fp32."""
        parts = [torch.log_softmax(part, -1, dtype=torch.float32) for part in logits.split(sizes, -1)]
        return cls(torch.cat(parts, -1), sizes)

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Gumbel noise [..., sum(sizes)]."""
        return Categorical.noise(rng, shape)

    def choices(self) -> list[Categorical]:
        """Every choice as a distribution of its own."""
        return [Categorical(part) for part in self.log_probs.split(self.sizes, -1)]

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., D], int64."""
        parts = zip(self.choices(), noise.split(self.sizes, -1), strict=True)
        return torch.stack([choice.sample(part) for choice, part in parts], -1)

    def mode(self) -> Tensor:
        """The most probable actions [..., D], int64."""
        return torch.stack([choice.mode() for choice in self.choices()], -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability [...] of int64 `actions` [..., D]."""
        parts = zip(self.choices(), actions.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(action) for choice, action in parts]).sum(0)

    def entropy(self) -> Tensor:
        """Entropy [...] in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: MultiCategorical) -> Tensor:
        """KL divergence [...] from this one to the other."""
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)


class DiagonalGaussian(NamedTuple):
    """Independent normals over D numbers: `mean` [..., D] and `log_std`, which broadcasts against it."""

    mean: Tensor
    log_std: Tensor

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise [..., D] for `sample`."""
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., D], float32, not clipped."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density [...] of `actions` [..., D]."""
        z = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy [...] in nats."""
        return (self.log_std + (0.5 + HALF_LOG_TAU)).expand_as(self.mean).sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL divergence [...] from this one to the other."""
        difference = other.log_std - self.log_std
        ratio = (self.log_std * 2).exp() + (self.mean - other.mean).square()
        return (difference + 0.5 * ratio * (-2 * other.log_std).exp() - 0.5).sum(-1)


class SquashedGaussian(NamedTuple):
    """A diagonal Gaussian through tanh, stretched to the box: a = middle + half tanh(u) (Haarnoja 2018, appendix C).

    `middle` and `half` [D]. Its entropy has no closed form: `entropy` is that of the Gaussian plus the logarithm of the
    stretching at its mean, a first-order estimate without noise of its own.
    """

    mean: Tensor
    log_std: Tensor
    middle: Tensor
    half: Tensor

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise [..., D] for `sample`."""
        return DiagonalGaussian.noise(rng, shape)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., D], float32, within the box."""
        return self._squash(self.mean + self.log_std.exp() * noise)

    def mode(self) -> Tensor:
        """The squashed mean."""
        return self._squash(self.mean)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density [...] of `actions` [..., D]; those on the bounds count as just inside."""
        squashed = ((actions - self.middle) / self.half).clamp(-1 + 1e-6, 1 - 1e-6)
        u = torch.atanh(squashed)
        return DiagonalGaussian(self.mean, self.log_std).log_prob(u) - self._log_stretch(u)

    def entropy(self) -> Tensor:
        """The estimate [...] in nats."""
        return DiagonalGaussian(self.mean, self.log_std).entropy() + self._log_stretch(self.mean)

    def kl(self, other: SquashedGaussian) -> Tensor:
        """KL divergence [...], which squashing both by the same function leaves as it is."""
        return DiagonalGaussian(self.mean, self.log_std).kl(DiagonalGaussian(other.mean, other.log_std))

    def _squash(self, u: Tensor) -> Tensor:
        return self.middle + self.half * torch.tanh(u)

    def _log_stretch(self, u: Tensor) -> Tensor:
        """Sum of log |da/du|: log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u)), which does not overflow."""
        return (self.half.log() + 2 * (math.log(2) - u - functional.softplus(-2 * u))).sum(-1)


class Deterministic(NamedTuple):
    """One action and no other: `action` [..., D]. It can act, and be fitted by `distance`; it has no density."""

    action: Tensor

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """None is needed; zeros of that shape."""
        return torch.zeros(shape)

    def sample(self, noise: Tensor) -> Tensor:
        """The action."""
        return self.action

    def mode(self) -> Tensor:
        """The action."""
        return self.action

    def log_prob(self, actions: Tensor) -> Tensor:
        """Raises ConfigError: there is no density."""
        raise ConfigError(
            "distribution: a deterministic policy has no log-probabilities, so gradients of them cannot be followed; "
            "use gaussian or squashed, or an algorithm that needs none (es, finite_difference, bc)"
        )

    def entropy(self) -> Tensor:
        """0 [...]."""
        return torch.zeros_like(self.action[..., 0])

    def kl(self, other: Deterministic) -> Tensor:
        """Raises ConfigError: there is no density."""
        return self.log_prob(other.action)

    def distance(self, actions: Tensor) -> Tensor:
        """Squared error [...] to `actions` [..., D], summed over their numbers."""
        return (self.action - actions).square().sum(-1)


Distribution = Categorical | MultiCategorical | DiagonalGaussian | SquashedGaussian | Deterministic


def divergence(one: Distribution, other: Distribution) -> Tensor:
    """KL(one || other) [...] in nats of two distributions of one kind."""
    if type(one) is not type(other):
        raise TypeError(f"no divergence from a {type(one).__name__} to a {type(other).__name__}")
    found: Tensor = one.kl(other)  # type: ignore[arg-type]
    return found


D = TypeVar("D", bound=Distribution)


def detached(distribution: D) -> D:
    """The same one, through which no gradient goes."""
    return type(distribution)(*(x.detach() if isinstance(x, Tensor) else x for x in distribution))  # type: ignore[arg-type]
