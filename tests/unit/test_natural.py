"""Natural gradients against matrices that are written out, and what npg and trpo do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.npg import NPG, NPGConfig, natural_step
from core.algorithms.trpo import TRPO, TRPOConfig, share_of, trust_region_step
from core.errors import ConfigError
from core.rl.distributions import detached, divergence
from core.rl.losses import mean
from core.rl.mlp import MLP, twice_differentiable
from core.rl.natural import assign, conjugate_gradient, fisher_product, gradient, line_search, policy_parameters, vector
from core.rl.optim import flatten
from tests.unit.unrolls import BOX, SPEC, Batch, batch, context, network_of, rows

ADVANTAGES = torch.from_numpy(np.random.default_rng(7).normal(size=(6, 2)).astype(np.float32))


def boxed() -> Batch:
    data = batch()
    data["action"] = torch.from_numpy(np.random.default_rng(5).normal(size=(6, 2, 2)).astype(np.float32))
    return data


def explicit_fisher(network: Any, data: Batch) -> torch.Tensor:
    """E over rows and the policy's own actions of score score^T: sums for a softmax, the closed form for a Gaussian."""
    parameters = policy_parameters(network)
    total = torch.zeros(sum(p.numel() for p in parameters), sum(p.numel() for p in parameters))
    for t, b in rows(data):
        policy = network.policy(data["obs"][t, b].unsqueeze(0))
        if SPEC.action.n == policy[0].shape[-1]:
            for action in range(3):
                log_prob = policy.log_prob(torch.tensor([action]))
                score = gradient_of(log_prob.sum(), parameters)
                total += float(log_prob.detach().exp()) * torch.outer(score, score)
        else:
            for d in range(2):
                of_mean = gradient_of(policy.mean[0, d], parameters)
                of_log_std = gradient_of(policy.log_std[d], parameters)
                total += torch.outer(of_mean, of_mean) / float(policy.log_std[d].detach().exp()) ** 2
                total += 2 * torch.outer(of_log_std, of_log_std)
    return total / len(rows(data))


def gradient_of(value: torch.Tensor, parameters: Any) -> torch.Tensor:
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros(p.numel()) if g is None else g.reshape(-1) for g, p in zip(found, parameters, strict=True)]
    )


def product_of(network: Any, data: Batch, damping: float) -> Any:
    with twice_differentiable():
        policy = network.policies(data)
        kl = mean(divergence(detached(policy), policy), data["valid"].float())
        return fisher_product(kl, policy_parameters(network), damping)


def test_conjugate_gradients_solve_a_positive_system() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    matrix, b = root @ root.T + np.eye(12), rng.normal(size=12)
    a = torch.from_numpy(matrix)
    x = conjugate_gradient(lambda v: a @ v, torch.from_numpy(b), 50)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-6)
    short = conjugate_gradient(lambda v: a @ v, torch.from_numpy(b), 2)
    assert not np.allclose(short, x, rtol=1e-2)


@pytest.mark.parametrize("kind", ["softmax", "gaussian"])
def test_fisher_products_are_those_of_the_matrix_of_scores(kind: str) -> None:
    spec, data = (SPEC, batch()) if kind == "softmax" else (BOX, boxed())
    network = network_of(TRPO(TRPOConfig(hidden=(4,))), spec)
    fisher, product = explicit_fisher(network, data), product_of(network, data, damping=0.3)
    v = torch.from_numpy(np.random.default_rng(2).normal(size=len(fisher)).astype(np.float32))
    torch.testing.assert_close(product(v), fisher @ v + 0.3 * v, rtol=1e-3, atol=1e-5)


def test_large_layers_have_second_derivatives_where_they_are_asked_for() -> None:
    network, x = MLP((64, 256, 8), "tanh", 1.0), torch.randn(256, 64)
    with pytest.raises(RuntimeError, match="differentiated"):
        _second(network, x)
    with twice_differentiable():
        assert torch.isfinite(_second(network, x))


def _second(network: MLP, x: torch.Tensor) -> torch.Tensor:
    (first,) = torch.autograd.grad(network(x).square().sum(), network.params()[0], create_graph=True)
    return torch.autograd.grad(first.square().sum(), network.params()[0])[0].sum()


def test_npg_one_step_is_the_solved_system_parameter_by_parameter() -> None:
    config = NPGConfig(hidden=(4,), damping=0.1, max_kl=0.01, cg_iterations=200)
    network, data = network_of(NPG(config)), batch()
    parameters = policy_parameters(network)
    before = vector(parameters).double()
    fisher = explicit_fisher(network, data).double() + 0.1 * torch.eye(len(before))
    log_probs = network.policies(data).log_prob(data["action"] - 5)
    g = gradient(mean(log_probs * ADVANTAGES, data["valid"].float()), parameters).double()
    direction = torch.linalg.solve(fisher, g)
    wanted = before + torch.sqrt(0.02 / (g @ direction)) * direction
    natural_step(config, network, data, ADVANTAGES)
    torch.testing.assert_close(vector(parameters).double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_small_npg_step_moves_the_policy_by_the_kl_that_was_asked_for() -> None:
    config = NPGConfig(hidden=(), damping=1e-3, max_kl=1e-4, cg_iterations=20)
    network = network_of(NPG(config))
    assert natural_step(config, network, batch(), ADVANTAGES)["kl"] == pytest.approx(1e-4, rel=0.1)


def test_a_line_search_takes_the_longest_step_that_holds() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def surrogate_and_kl() -> tuple[torch.Tensor, torch.Tensor]:
        moved = parameter - torch.tensor([1.0, 2.0])
        return moved.sum(), moved.square().sum()

    found = line_search([parameter], torch.tensor([4.0, 0.0]), surrogate_and_kl, max_kl=1.0, backtracks=5, shrink=0.5)
    assert found == (0.25, 1.0, 1.0)  # 16 and 4 are too far; 1 is not
    assert parameter.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("surrogate", [-1.0, float("nan")])
def test_a_failed_line_search_restores_the_parameters_bit_for_bit(surrogate: float) -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.1, 1e-30, -3.7]))
    before = parameter.detach().clone()
    told = iter([0.0, *[surrogate] * 4])

    def surrogate_and_kl() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(next(told)), torch.tensor(0.0)

    found = line_search([parameter], torch.ones(3), surrogate_and_kl, 1.0, 4, 0.5)
    assert found == (0.0, 0.0, 0.0)
    assert parameter.detach().numpy().tobytes() == before.numpy().tobytes()


def test_trpo_whose_search_fails_leaves_the_policy_bit_for_bit_and_says_so() -> None:
    config = TRPOConfig(hidden=(4,), max_kl=1e-12, backtracks=1)
    network = network_of(TRPO(config))
    before = vector(policy_parameters(network)).numpy().tobytes()
    metrics = trust_region_step(config, network, batch(), 0 * ADVANTAGES)
    assert (metrics["search_failed"], metrics["step_share"]) == (1.0, 0.0)
    assert vector(policy_parameters(network)).numpy().tobytes() == before


@pytest.mark.parametrize("kind", ["softmax", "gaussian"])
def test_trpo_gains_within_its_trust_region(kind: str) -> None:
    spec, data = (SPEC, batch()) if kind == "softmax" else (BOX, boxed())
    config = TRPOConfig(hidden=(8,), max_kl=0.005)
    network = network_of(TRPO(config), spec)
    if kind == "gaussian":
        data["log_prob"] = network.policies(data).log_prob(data["action"]).detach()
    metrics = trust_region_step(config, network, data, ADVANTAGES)
    assert metrics["surrogate_gain"] > 0
    assert 0 < metrics["kl"] <= 0.005


def test_trpo_one_step_parameter_by_parameter() -> None:
    """The first length of the search is taken here; the gradient is that of ratios to the recorded probability."""
    config = TRPOConfig(hidden=(4,), damping=0.1, max_kl=1e-3, cg_iterations=200)
    network, data = network_of(TRPO(config)), batch()
    parameters = policy_parameters(network)
    before, fisher = vector(parameters).double(), explicit_fisher(network, data).double()
    fisher = fisher + 0.1 * torch.eye(len(before))
    ratios = (network.policies(data).log_prob(data["action"] - 5) - data["log_prob"]).exp()
    g = gradient(mean(ratios * ADVANTAGES, data["valid"].float()), parameters).double()
    s = torch.linalg.solve(fisher, g)
    metrics = trust_region_step(config, network, data, ADVANTAGES)
    assert metrics["step_share"] == 1.0
    wanted = before + torch.sqrt(2e-3 / (s @ fisher @ s)) * s
    torch.testing.assert_close(vector(parameters).double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", [NPG(NPGConfig(hidden=(8,))), TRPO(TRPOConfig(hidden=(8,)))])
def test_the_value_is_fitted_and_fitting_it_leaves_the_policy_alone(algorithm: Any) -> None:
    network = network_of(algorithm)
    state, data = algorithm.state(network), batch()
    first = algorithm.update(network, state, data, context()).metrics["value_loss"]
    for _ in range(30):
        last = algorithm.update(network, state, data, context()).metrics["value_loss"]
    assert last < first
    moments = zip(network.parameters(), flatten(network).views(state.mean), strict=True)
    policy = {id(p) for p in policy_parameters(network)}
    assert all(not moment.any() for p, moment in moments if id(p) in policy)


def test_assigning_a_vector_is_the_inverse_of_reading_it() -> None:
    parameters = policy_parameters(network_of(TRPO(TRPOConfig(hidden=(4,)))))
    wanted = torch.arange(sum(p.numel() for p in parameters), dtype=torch.float32)
    assign(parameters, wanted)
    assert torch.equal(vector(parameters), wanted)


def test_a_share_of_the_environments_makes_the_fisher_matrix() -> None:
    data = {"valid": torch.arange(10).repeat(3, 1)}
    assert share_of(data, 0.3)["valid"][0].tolist() == [0, 4, 9]
    assert share_of(data, 0.01)["valid"][0].tolist() == [0]
    assert share_of(data, 1.0) is data


@pytest.mark.parametrize("config", [NPGConfig, TRPOConfig])
def test_a_shared_trunk_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="shared_trunk: a natural step moves the policy alone"):
        config(shared_trunk=True)
