"""Natural gradients: Fisher-vector products, conjugate gradients and the line search of a trust region. Pure.

The Fisher matrix F of a policy is never made. F v is the derivative of (grad KL) v at the point where both policies of
the KL are the same one, which takes two backward passes (Schulman 2015, appendix C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.rl.networks import ActorCritic

Product = Callable[[Tensor], Tensor]
"""From a vector v to A v."""


def policy_parameters(network: ActorCritic) -> list[nn.Parameter]:
    """What the policy alone depends on, in a fixed order; for networks without a shared trunk."""
    return [*network.body.parameters(), *network.head.parameters(), *network.actor.parameters()]


def vector(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one new tensor."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Tensor) -> None:
    """The inverse: copy the numbers back, bit for bit."""
    for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


def gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a scalar as one vector; 0 where it does not depend on a parameter."""
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if part is None else part).reshape(-1) for part, p in pairs])


def fisher_product(kl: Tensor, parameters: Sequence[nn.Parameter], damping: float) -> Product:
    """V -> (F + damping I) v, of a mean KL(policy now, held fixed || policy) made within `twice_differentiable`."""
    first = torch.autograd.grad(kl, parameters, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in first])

    def product(v: Tensor) -> Tensor:
        second = torch.autograd.grad(torch.dot(flat, v), parameters, retain_graph=True)
        return torch.cat([part.reshape(-1) for part in second]) + damping * v

    return product


def conjugate_gradient(product: Product, b: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """X with A x = b for a symmetric positive A, after at most so many products (Hestenes 1952)."""
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    norm = torch.dot(residual, residual)
    for _ in range(iterations):
        if norm < tolerance:
            break
        image = product(direction)
        length = norm / torch.dot(direction, image)
        x += length * direction
        residual -= length * image
        norm, before = torch.dot(residual, residual), norm
        direction = residual + norm / before * direction
    return x


class Searched(NamedTuple):
    """Where a line search ended: the share of the full step that was taken, 0 where none was good enough."""

    share: float
    gain: float
    kl: float


@torch.no_grad()
def line_search(
    parameters: Sequence[nn.Parameter],
    step: Tensor,
    surrogate_and_kl: Callable[[], tuple[Tensor, Tensor]],
    max_kl: float,
    backtracks: int,
    shrink: float,
) -> Searched:
    """Take the longest of `step`, shrink step, shrink^2 step, ... that gains and keeps KL <= `max_kl`.

    Where none of them does, the parameters are the former ones, bit for bit.
    """
    before = vector(parameters)
    start = float(surrogate_and_kl()[0])
    share = 1.0
    for _ in range(backtracks):
        assign(parameters, before + share * step)
        surrogate, kl = (float(value) for value in surrogate_and_kl())
        if surrogate > start and kl <= max_kl:  # False for NaN
            return Searched(share, surrogate - start, kl)
        share *= shrink
    assign(parameters, before)
    return Searched(0.0, 0.0, 0.0)
