"""Small batches of unrolls with every kind of row, and a network that can be computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.rl.networks import ActorCritic
from core.rl.optim import flatten
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Context

SPEC = EnvSpec("Test-v0", ArraySpec((3,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=3, start=5))
BOX = EnvSpec("Box-v0", SPEC.observation, ActionSpec("box", ArraySpec((2,), "float32"), low=(-1, -1), high=(1, 1)))
T, B = 6, 2
Batch = dict[str, torch.Tensor]


def batch(seed: int = 0) -> Batch:
    """Column 0: truncated at row 1, reset at row 2, terminated at row 4, reset at row 5. Column 1: one episode."""
    rng = np.random.default_rng(seed)
    valid, discount = np.ones((T, B)), np.ones((T, B))
    valid[2, 0] = valid[5, 0] = discount[4, 0] = 0
    return {
        "obs": torch.from_numpy(rng.normal(size=(T + 1, B, 3)).astype(np.float32)),
        "action": torch.from_numpy(rng.integers(5, 8, (T, B))),
        "reward": torch.from_numpy((rng.normal(size=(T, B)) * valid).astype(np.float32)),
        "discount": torch.from_numpy(discount.astype(np.float32)),
        "valid": torch.from_numpy(valid.astype(np.uint8)),
        "log_prob": torch.from_numpy(rng.uniform(-1.5, -0.7, (T, B)).astype(np.float32)),
    }


def episodes(seed: int = 0) -> Batch:
    """Two whole episodes: 6 rows, and 4 rows that terminate."""
    found = batch(seed)
    found["valid"][:] = 1
    found["valid"][4:, 1] = 0
    found["discount"][:] = 1
    found["discount"][3, 1] = 0
    found["reward"] *= found["valid"]
    return found


def context(env_steps: int = 0) -> Context:
    return Context(np.random.default_rng(3), round=0, env_steps=env_steps, budget_env_steps=100)


def network_of(algorithm: Any, spec: EnvSpec = SPEC, seed: int = 0) -> Any:
    """Its network with larger numbers, so that policies are not uniform."""
    torch.manual_seed(seed)
    network = algorithm.network(spec)
    flatten(network).params.mul_(1.5)
    return network


class ByHand:
    """A network of separate linear policy and value in float64, one row at a time; gradients by autograd."""

    def __init__(self, network: ActorCritic) -> None:
        self.params = [p.detach().double().requires_grad_() for p in network.parameters()]

    def log_probs(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.params[0] @ obs.double() + self.params[1], 0)

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        return (self.params[2] @ obs.double() + self.params[3]).squeeze()

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        found = torch.autograd.grad(loss, self.params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.params, strict=True)]


def rows(data: Batch) -> list[tuple[int, int]]:
    """Every row that is a step."""
    return [(t, b) for b in range(data["valid"].shape[1]) for t in range(len(data["valid"])) if data["valid"][t, b]]


def first_adam(params: list[torch.Tensor], gradients: list[torch.Tensor], lr: float, eps: float) -> list[torch.Tensor]:
    """The first step of Adam, whose moments are the gradient itself and its square."""
    return [p.detach() - lr * g / (g.abs() + eps) for p, g in zip(params, gradients, strict=True)]


def assert_close(network: Any, wanted: list[torch.Tensor]) -> None:
    for got, want in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(got.detach().double(), want, rtol=1e-4, atol=1e-6)
