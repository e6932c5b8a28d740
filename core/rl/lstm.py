"""The long short-term memory between features and hidden layers (Hochreiter 1997, with forget gates of Gers 2000).

Memory is one array [B, 2 U], the cell's outputs and then its state, zero at the start of an episode. Along an unroll
    memory_{t+1} = valid_t f(x_t, memory_t)
so the row on which an environment resets hands zeros on, exactly as the actor's step-by-step loop does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.rl.precision import linear


class LSTM(nn.Module):
    """U units. Weights are orthogonal; the forget gate's bias is 1, so that memory lasts from the start."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.of_input = nn.Parameter(torch.empty(4 * units, inputs))
        self.of_outputs = nn.Parameter(torch.empty(4 * units, units))
        self.bias = nn.Parameter(torch.zeros(4 * units))
        for gate in range(4):
            rows = slice(gate * units, (gate + 1) * units)
            nn.init.orthogonal_(self.of_input.data[rows], math.sqrt(2) if inputs < units else 1.0)
            nn.init.orthogonal_(self.of_outputs.data[rows])
        self.bias.data[units : 2 * units] = 1.0

    def step(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, U] and the memory [B, 2 U] after it, of inputs [B, inputs]."""
        return self._after(linear(x, self.of_input, self.bias), memory)

    def over(self, x_TBI: Tensor, memory: Tensor, valid_TB: Tensor) -> Tensor:
        """Outputs [T, B, U] along unrolls that begin with `memory`; `valid_TB` may be one row shorter than the inputs.

        The inputs' part of all rows is one product; only the recurrent part goes row by row.
        """
        found = []
        for t, gates in enumerate(linear(x_TBI, self.of_input, self.bias).unbind(0)):
            outputs, memory = self._after(gates, memory)
            found.append(outputs)
            if t < len(valid_TB):
                memory = valid_TB[t].unsqueeze(-1) * memory
        return torch.stack(found)

    def _after(self, of_input: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        outputs, cell = memory.chunk(2, -1)
        gates = torch.addmm(of_input, outputs, self.of_outputs.t())
        enter, forget, candidate, leave = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        outputs = leave.sigmoid() * cell.tanh()
        return outputs, torch.cat((outputs, cell), -1)
