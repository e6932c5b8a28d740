"""Layers whose weights carry learned noise: exploration that depends on the state (Fortunato 2018, factorised).

    y = (w + sigma_w * (f(e_out) f(e_in)^T)) x + b + sigma_b * f(e_out)        f(e) = sign(e) sqrt(|e|)
Noise is drawn by the caller's generator and holds until it is drawn anew; `still` takes it away, as evaluation does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from core.rl.mlp import PLAIN, Activation
from core.rl.precision import linear


class NoisyMLP(nn.Module):
    """Layers of `sizes`, inputs first and outputs last, all of them noisy; initialised as in the paper, section 3.2."""

    def __init__(self, sizes: Sequence[int], activation: Activation, sigma: float) -> None:
        super().__init__()
        self.activation, self.sizes = activation, tuple(sizes)
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / math.sqrt(inputs)
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                mean = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                self.register_parameter(f"{name}{layer}", mean)
                self.register_parameter(f"{name}_sigma{layer}", nn.Parameter(torch.full(shape, sigma * bound)))
        self._noise: list[tuple[Tensor, Tensor]] | None = None

    def params(self) -> tuple[Tensor, ...]:
        """Weight, its sigma, bias and its sigma of every layer in turn."""
        return tuple(p for p in self._parameters.values() if p is not None)

    def draw(self, rng: np.random.Generator) -> None:
        """New noise for all layers: of its inputs and of its outputs."""
        device = self.get_parameter("weight0").device
        drawn = [_shaped(rng, n).to(device) for pair in itertools.pairwise(self.sizes) for n in pair]
        self._noise = list(zip(drawn[::2], drawn[1::2], strict=True))

    def still(self) -> None:
        """No noise: the means alone."""
        self._noise = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            weight: Tensor = self.get_parameter(f"weight{layer}")
            bias: Tensor = self.get_parameter(f"bias{layer}")
            if self._noise is not None:
                of_inputs, of_outputs = self._noise[layer]
                noise = torch.outer(of_outputs, of_inputs)
                weight = torch.addcmul(weight, self.get_parameter(f"weight_sigma{layer}"), noise)
                bias = torch.addcmul(bias, self.get_parameter(f"bias_sigma{layer}"), of_outputs)
            x = linear(x, weight, bias)
            if layer < last:
                x = PLAIN[self.activation](x)
        return x


def _shaped(rng: np.random.Generator, n: int) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(n, np.float32))
    return noise.sign() * noise.abs().sqrt()
