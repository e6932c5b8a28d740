"""Action distributions as small named tuples of fp32 tensors: the same ones act (with numpy noise) and learn.

Leading axes are free. Noise comes from the unroll's own numpy generator, many rows at once, so that acting costs one
forward and one argmax a row and does not depend on torch's global random state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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


Distribution = Categorical | DiagonalGaussian
