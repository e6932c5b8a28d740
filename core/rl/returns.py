"""Returns and advantages over masked columns (docs/concepts.md, "Masks"). Pure functions, no gradients.

`discounts` is 0 where the episode terminated and 1 elsewhere; `valid` is 1 for a step and 0 for the row on which an
environment resets or idles. A row's correction is multiplied by its own `valid`, so a reset row cuts every trace by
itself. All arguments are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.rl.scan import scan


def gae(
    rewards_TB: Tensor, discounts_TB: Tensor, valid_TB: Tensor, values_TB: Tensor, gamma: float, trace_decay: float
) -> Tensor:
    """Generalised advantage estimates [T, B] (Schulman 2016, eq. 16); 0 on rows that are no steps.

    `values_TB` has T + 1 rows. `trace_decay` is the paper's lambda: 0 gives the one-step TD error, 1 the return to
    the end of the episode or unroll minus the value. The value target is the advantage plus the value.
    """
    onward_TB = gamma * discounts_TB
    delta_TB = torch.addcmul(rewards_TB, onward_TB, values_TB[1:]) - values_TB[:-1]
    return scan(valid_TB * delta_TB, trace_decay * valid_TB * onward_TB)


class NStep(NamedTuple):
    """n-step returns of N windows: the value target is `returns_N + factors_N * bootstrap(obs[steps_N])`."""

    returns_N: Tensor
    factors_N: Tensor
    steps_N: Tensor


def nstep(rewards_WN: Tensor, discounts_WN: Tensor, valid_WN: Tensor, gamma: float) -> NStep:
    """Sum the W rewards of each window as far as the first row's episode goes.

    Row 0 is the item itself. `steps_N` (int64, 1 .. W) counts the rows summed and is the window's row at which to
    bootstrap; `factors_N` is gamma^steps, or 0 where the last summed row terminated. A row with discount 0 is the last
    one, also where the environment goes on behind it (a lost life).
    """
    rows = rewards_WN.shape[0]
    if rows == 1:
        return NStep(rewards_WN[0], gamma * discounts_WN[0], torch.ones_like(rewards_WN[0], dtype=torch.int64))
    onward_WN = valid_WN[1:] * (discounts_WN[:-1] != 0)
    same_WN = torch.cat((torch.ones_like(valid_WN[:1]), onward_WN)).cumprod(0)
    powers_W = gamma ** torch.arange(rows, device=rewards_WN.device, dtype=rewards_WN.dtype)
    steps_N = same_WN.sum(0).long()
    last_N = discounts_WN.gather(0, steps_N[None] - 1)[0]
    return NStep(powers_W @ (same_WN * rewards_WN), gamma**steps_N * last_N, steps_N)


def returns_to_go(rewards_TB: Tensor, valid_TB: Tensor, gamma: float) -> Tensor:
    """The discounted sum [T, B] of the rewards from each row to its episode's last; 0 on rows that are no steps.

    For whole episodes: what was cut off at the unroll's end is not made up for.
    """
    return scan(valid_TB * rewards_TB, gamma * valid_TB)


class VTrace(NamedTuple):
    """Off-policy corrected values and advantages [T, B]; rows that are no steps have their own value, and 0."""

    values_TB: Tensor
    advantages_TB: Tensor


def vtrace(
    rewards_TB: Tensor,
    discounts_TB: Tensor,
    valid_TB: Tensor,
    values_TB: Tensor,
    log_ratios_TB: Tensor,
    gamma: float,
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    trace_decay: float = 1.0,
) -> VTrace:
    """V-trace (Espeholt 2018, eq. 1 and section 4.2) of unrolls whose `values_TB` has T + 1 rows.

    `log_ratios_TB` is log(target / behaviour probability) of the actions taken. With rho = min(rho_bar, ratio) and
    c = trace_decay min(c_bar, ratio)
        delta_t = rho_t (r_t + gamma d_t V_{t+1} - V_t)
        v_t     = V_t + delta_t + gamma d_t c_t (v_{t+1} - V_{t+1})
        A_t     = rho_t (r_t + gamma d_t v_{t+1} - V_t)
    """
    ratios_TB = log_ratios_TB.exp()
    rho_TB, c_TB = ratios_TB.clamp(max=rho_bar), trace_decay * ratios_TB.clamp(max=c_bar)
    onward_TB = gamma * discounts_TB
    delta_TB = rho_TB * (torch.addcmul(rewards_TB, onward_TB, values_TB[1:]) - values_TB[:-1])
    corrections_TB = scan(valid_TB * delta_TB, valid_TB * onward_TB * c_TB)
    corrected_TB = values_TB[:-1] + corrections_TB
    after_TB = torch.cat((corrected_TB[1:], values_TB[-1:]))
    advantages_TB = rho_TB * (torch.addcmul(rewards_TB, onward_TB, after_TB) - values_TB[:-1])
    return VTrace(corrected_TB, valid_TB * advantages_TB)
