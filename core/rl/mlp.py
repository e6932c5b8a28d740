"""The multi-layer perceptron, with one fused kernel a layer on the CPU.

torch's own path computes a CPU layer as a product and, apart, an activation: with its stock BLAS a large product runs
at half the speed of oneDNN's on AMD, and tanh costs more than the product before it. oneDNN's linear with the
activation fused in is part of torch (its compiler emits it) but has no gradient, so the backward pass is written here.
One thread of an AMD EPYC, forward and backward, forward alone: 4-64-64-3 tanh at 2048 rows 720 and 215 us against
1,370 and 790; 4-256-256-3 relu at 64 rows 300 and 77 us against 360 and 104. Small work, and any other device, keeps
torch's path. Both give the same numbers up to rounding.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from core.rl.precision import linear

Activation = Literal["tanh", "relu"]

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": torch.ops.aten.tanh_backward,
    "relu": lambda gradient, outputs: torch.ops.aten.threshold_backward(gradient, outputs, 0),
}

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
LEAST_PRODUCT = 1 << 20  # multiplications from which oneDNN's faster product makes up for its 11 us a call
LEAST_TANH = 1 << 13  # outputs from which a fused tanh does
LEAST_FORWARD = 1 << 18  # multiplications of a forward pass from which choosing a kernel for each layer pays
LEAST_GRAD = 1 << 21  # and, where a gradient is wanted, a node of the graph that is written in Python


_twice = False


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """What is computed in here has second derivatives, too: the fused path, which has not, is left aside.

    For the one thread that learns.
    """
    global _twice
    before, _twice = _twice, True
    try:
        yield
    finally:
        _twice = before


def _layer(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """One layer of rows `x` [N, inputs] on the CPU without gradient, by the kernel that is faster at that size."""
    outputs = x.shape[0] * weight.shape[0]
    if outputs * weight.shape[1] >= LEAST_PRODUCT or (activation == "tanh" and outputs >= LEAST_TANH):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
        return y
    y = functional.linear(x, weight, bias)
    return y if activation == "none" else PLAIN[activation](y)


def _layers(activation: str, x: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Every layer's outputs; the last has no activation."""
    found = []
    for i in range(0, len(params), 2):
        x = _layer(x, params[i], params[i + 1], activation if i + 2 < len(params) else "none")
        found.append(x)
    return found


class _Fused(torch.autograd.Function):
    """All layers as one node of the graph. First derivatives only."""

    @staticmethod
    def forward(ctx: Any, activation: str, x: Tensor, *params: Tensor) -> Tensor:
        *hidden, y = _layers(activation, x, params)
        ctx.activation = activation
        ctx.save_for_backward(x, *hidden, *params[::2])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        of_params: list[Tensor] = []
        for layer in reversed(range(len(weights))):
            of_params = [_layer(gradient.t(), inputs[layer].t(), None), gradient.sum(0), *of_params]
            if layer:
                gradient = _layer(gradient, weights[layer].t(), None)
                gradient = _BACKWARD[ctx.activation](gradient, inputs[layer])
        of_x = _layer(gradient, weights[0].t(), None) if ctx.needs_input_grad[1] else None
        return None, of_x, *of_params


class MLP(nn.Module):
    """Layers of `sizes`, inputs first and outputs last, with the activation between them.

    Weights are orthogonal with gain sqrt 2, the last with `head_gain`; biases are 0.
    """

    def __init__(self, sizes: Sequence[int], activation: Activation, head_gain: float) -> None:
        super().__init__()
        self.activation: str = activation
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            weight = torch.empty(outputs, inputs)
            nn.init.orthogonal_(weight, head_gain if layer == len(sizes) - 2 else math.sqrt(2))
            self.register_parameter(f"weight{layer}", nn.Parameter(weight))
            self.register_parameter(f"bias{layer}", nn.Parameter(torch.zeros(outputs)))
        self.work_a_row = sum(i * o for i, o in itertools.pairwise(sizes))
        self.inputs = sizes[0]

    def params(self) -> tuple[Tensor, ...]:
        """Weight and bias of every layer in turn."""
        return tuple(p for p in self._parameters.values() if p is not None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        params, grad = self.params(), torch.is_grad_enabled()
        work = x.numel() // self.inputs * self.work_a_row
        large = work >= (LEAST_GRAD if grad else LEAST_FORWARD)
        fits = x.device.type == "cpu" and x.dtype == torch.float32 and not (grad and _twice)
        if HAS_ONEDNN and large and fits:
            rows = x.reshape(-1, self.inputs)
            if grad:
                y: Tensor = _Fused.apply(self.activation, rows, *params)  # type: ignore[no-untyped-call]
            else:
                y = _layers(self.activation, rows, params)[-1]
            return y.view(*x.shape[:-1], -1)
        for i in range(0, len(params) - 2, 2):
            x = PLAIN[self.activation](linear(x, params[i], params[i + 1]))
        return linear(x, params[-2], params[-1])
