"""In what numbers images are computed: bf16 where the processor multiplies in it, float32 elsewhere.

Only what costs is: the convolutions and the first layer behind them, from `LEAST_ROWS` rows on. Parameters, gradients,
all further layers and what comes out stay float32, so an optimiser step smaller than bf16 can tell is not lost.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["auto", "float32", "bfloat16"]

LEAST_ROWS = 8
"""Fewer rows without a gradient gain nothing."""


def dtype_of(precision: Precision, rows: int, device: torch.device) -> torch.dtype:
    """What `rows` images are computed in on that device."""
    if precision == "float32" or (rows < LEAST_ROWS and not torch.is_grad_enabled()):
        return torch.float32
    return torch.bfloat16 if precision == "bfloat16" or multiplies_bf16(device.type) else torch.float32


@cache
def multiplies_bf16(device_type: str) -> bool:
    """Whether it has units for matrices of bf16: on a CPU AMX; without them bf16 was slower than float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer computed in the dtype of its inputs [..., I]; [..., O] in that of its weights [O, I]."""
    if x.dtype == weight.dtype:
        return functional.linear(x, weight, bias)
    return functional.linear(x, weight.to(x.dtype), bias.to(x.dtype)).to(weight.dtype)
