"""The one kernel behind every return and advantage: x_t = a_t + b_t x_{t+1}, with x_T = 0."""

from __future__ import annotations

import torch
from torch import Tensor


def scan(a_TB: Tensor, b_TB: Tensor) -> Tensor:
    """Solve x_t = a_t + b_t x_{t+1} backwards over [T, B, ...] in log2(T) steps of doubling reach.

    After a step of reach k, x_t holds the terms of rows t .. t + 2k - 1 and b_t the product of 2k factors. Against a
    loop of one addcmul a row, one thread: [32, 8] 47 against 60 us, [64, 128] 66 against 115 us, [128, 1024] 370
    against 250 us; on a GPU it is log2(T) launches instead of T.
    """
    x_TB, reach = a_TB, 1
    while reach < a_TB.shape[0]:
        reached = torch.addcmul(x_TB[:-reach], b_TB[: a_TB.shape[0] - reach], x_TB[reach:])
        x_TB = torch.cat((reached, x_TB[-reach:]))
        b_TB = b_TB[:-reach] * b_TB[reach:]
        reach *= 2
    return x_TB
