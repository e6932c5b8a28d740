"""es and finite_difference: populations, what travels, the estimates, one step by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.es import ES, ESConfig, centred_ranks, estimate, perturbation, seeds
from core.algorithms.finite_difference import FiniteDifference, FiniteDifferenceConfig, pairs
from core.algorithms.signature import item_signature
from core.errors import ConfigError
from core.rl.perturbation import Population, episode_returns, gaussian, parameters
from core.specs import ArraySpec, EnvSpec
from core.types import Context, Episodes, Lag, Task
from tests.unit.unrolls import BOX, SPEC, network_of

TASK = Task(seed=3, slot=1, slots=2, round=5)
CONTEXT = Context(np.random.default_rng(0), round=0, env_steps=0, budget_env_steps=100)


def obs_of(envs: int) -> Any:
    return np.random.default_rng(1).normal(size=(envs, 3)).astype(np.float32)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
@pytest.mark.parametrize("spec", [SPEC, BOX])
def test_a_population_acts_as_each_of_its_members_would(hidden: Any, spec: EnvSpec) -> None:
    network = network_of(ES(ESConfig(hidden=hidden)), spec)
    theta, obs = parameters(network), torch.from_numpy(obs_of(5))
    many = theta + torch.from_numpy(np.random.default_rng(2).normal(size=(5, len(theta))).astype(np.float32))
    together = Population(network, many)(obs)[0]
    for b in range(5):
        at = 0
        for p in network.actor.params():
            p.data.copy_(many[b, at : at + p.numel()].view_as(p))
            at += p.numel()
        torch.testing.assert_close(together[b], network.policy(obs[b : b + 1])[0][0], rtol=1e-4, atol=1e-5)


def test_perturbations_come_in_pairs_from_seeds_that_no_other_unroll_has() -> None:
    found = seeds(TASK, 5)
    assert (found[1::2] - found[:-1:2]).tolist() == [1, 1]
    np.testing.assert_array_equal(perturbation(int(found[0]), 7), -perturbation(int(found[1]), 7))
    assert seeds(TASK, 5).tolist() == found.tolist()
    others = [seeds(TASK._replace(slot=slot, round=round), 64) for slot in range(8) for round in range(8)]
    assert len(np.unique(np.concatenate(others))) == 64 * 64
    noise = gaussian(int(found[0]), 20_000)
    assert (abs(noise.mean()), abs(noise.std() - 1)) < (0.05, 0.02)


def test_a_seed_and_a_return_are_all_that_travels() -> None:
    algorithm = ES(ESConfig(hidden=(64, 64)))
    network = algorithm.network(SPEC)
    assert (algorithm.plan().collect, algorithm.plan().pace) == (Episodes(1000, 1), Lag(0))
    signature = item_signature(algorithm, network, SPEC, 8)
    assert {name: c.array for name, c in signature.columns.items()} == {
        "seed": ArraySpec((), "int64"),
        "return": ArraySpec((), "float32"),
    }
    assert signature.nbytes(signature.max_rows, signature.max_envs) == 8 * 12


def test_an_episodes_return_counts_its_steps_alone() -> None:
    unroll = {"reward": np.array([[1.0, 2.0], [3.0, 9.0]]), "valid": np.array([[1, 1], [1, 0]])}
    assert episode_returns(unroll, 1).tolist() == [[4.0, 2.0]]
    assert episode_returns(unroll, 2).tolist() == [[2.0, 1.0]]


def test_ranks_are_centred_and_equal_returns_share_theirs() -> None:
    assert centred_ranks(torch.tensor([3.0, 1.0, 2.0])).tolist() == [0.5, -0.5, 0.0]
    assert centred_ranks(torch.tensor([5.0, 5.0, 1.0, 5.0])).tolist() == pytest.approx([1 / 6, 1 / 6, -0.5, 1 / 6])
    assert centred_ranks(torch.tensor([7.0])).tolist() == [-0.5]


def test_one_es_step_parameter_by_parameter() -> None:
    config = ESConfig(hidden=(), sigma=0.2, learning_rate=0.1, weight_decay=0.01)
    algorithm = ES(config)
    network = network_of(algorithm)
    theta, numbers = parameters(network).double(), seeds(TASK, 6)
    returns = np.array([4.0, 1.0, 2.0, 2.0, 7.0, 3.0])
    ranks = np.array([4, 0, 1.5, 1.5, 5, 3]) / 5 - 0.5
    total = np.zeros(len(theta))
    for seed, rank in zip(numbers.tolist(), ranks, strict=True):
        total += rank * perturbation(seed, len(theta))
    gradient = torch.from_numpy(total / (6 * 0.2))
    descent = 0.01 * theta - gradient
    batch = {"seed": torch.from_numpy(numbers)[None], "return": torch.from_numpy(returns).float()[None]}
    result = algorithm.update(network, algorithm.state(network), batch, CONTEXT)
    wanted = theta - 0.1 * descent / (descent.abs() + 1e-8)
    torch.testing.assert_close(parameters(network).double(), wanted, rtol=1e-4, atol=1e-5)
    assert result.metrics["loss"] == pytest.approx(-returns.mean())


def test_the_estimate_points_up_a_linear_return() -> None:
    slope = np.random.default_rng(5).normal(size=10)
    numbers = np.concatenate([seeds(TASK._replace(round=round), 200) for round in range(10)])
    returns = np.array([perturbation(seed, 10) @ slope for seed in numbers.tolist()])
    found = estimate(torch.from_numpy(numbers), torch.from_numpy(returns).float(), 10, 0.1).numpy()
    assert found @ slope / np.linalg.norm(found) / np.linalg.norm(slope) > 0.98
    shuffled = estimate(torch.from_numpy(np.roll(numbers, 2)), torch.from_numpy(returns).float(), 10, 0.1).numpy()
    assert abs(shuffled @ slope / np.linalg.norm(shuffled) / np.linalg.norm(slope)) < 0.9  # another's noise: no use


def test_without_exploring_nothing_is_perturbed() -> None:
    algorithm = ES(ESConfig(hidden=(4,), sigma=5.0))
    network, obs = network_of(algorithm), obs_of(6)
    greedy = algorithm.policy(network, TASK._replace(explore=False))(obs, None).action
    wanted = network.policy(torch.from_numpy(obs)).mode().numpy() + 5
    assert greedy.tolist() == wanted.tolist()
    assert algorithm.policy(network, TASK)(np.repeat(obs[:1], 64, 0), None).action.std() > 0


# finite differences


def fd(**settings: Any) -> FiniteDifference:
    return FiniteDifference(FiniteDifferenceConfig(**{"learning_rate": 0.5, **settings}))


def test_all_environments_together_sweep_the_parameters_in_pairs() -> None:
    algorithm, size, tried = fd(), 12, []
    for round in range(2):
        for slot in range(2):
            found = algorithm.directions(Task(1, slot, 2, round), 6, size)
            assert (found[1::2] - found[::2]).tolist() == [1, 1, 1]
            tried += (found[::2] // 2).tolist()
    assert tried == list(range(12))
    moved = algorithm.unit(np.array([0, 1, 5]), 3)
    assert moved.tolist() == [[1, 0, 0], [-1, 0, 0], [0, 0, -1]]


def test_differences_are_central_and_need_both_sides() -> None:
    directions, returns = torch.tensor([0, 1, 4, 6, 7, 0]), torch.tensor([5.0, 1.0, 9.0, 2.0, 3.0, 7.0])
    found, differences = pairs(directions, returns, step=0.5)
    assert found.tolist() == [0, 3]
    assert differences.tolist() == [6.0 - 1.0, -1.0]


def test_a_step_is_made_when_the_sweep_is_complete_parameter_by_parameter() -> None:
    algorithm = fd(step=0.1)
    network = network_of(algorithm)
    theta, state = parameters(network), algorithm.state(network)
    slope = torch.arange(12.0) - 3
    for part, updates in (((0, 7), 0), ((7, 12), 1)):
        directions = torch.tensor([2 * d + side for d in range(*part) for side in (0, 1)])
        signs = torch.where(directions % 2 == 0, 1.0, -1.0)
        batch = {"direction": directions[None], "return": (10 + 0.1 * signs * slope[directions // 2])[None]}
        result = algorithm.update(network, state, batch, CONTEXT)
        assert result.updates == updates
        if not updates:
            assert torch.equal(parameters(network), theta)
    torch.testing.assert_close(parameters(network), theta + 0.5 * slope / slope.norm(), rtol=1e-4, atol=1e-5)
    assert not state.counts.any()


def test_random_directions_solve_for_the_gradient() -> None:
    algorithm = fd(directions="random", step=0.01)
    network = network_of(algorithm)
    theta, directions = parameters(network), seeds(TASK, 60)
    slope = np.random.default_rng(3).normal(size=12).astype(np.float32)
    returns = 0.01 * algorithm.unit(directions, 12) @ slope
    batch = {"direction": torch.from_numpy(directions)[None], "return": torch.from_numpy(returns)[None]}
    algorithm.update(network, algorithm.state(network), batch, CONTEXT)
    wanted = theta + torch.from_numpy(0.5 * slope / np.linalg.norm(slope))
    torch.testing.assert_close(parameters(network), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", [ES, FiniteDifference])
@pytest.mark.parametrize("settings", [{"recurrent": 8}, {"distribution": "state_gaussian"}])
def test_what_cannot_be_perturbed_or_has_no_use_is_refused(algorithm: Any, settings: dict[str, Any]) -> None:
    made = algorithm(algorithm.Config(**settings))
    if "recurrent" in settings:
        with pytest.raises(ConfigError, match="perturbs the layers of an MLP"):
            made.network(SPEC)
    else:
        assert made.network(BOX).head.outputs == 4
    for name in ("normalise_observations", "shared_trunk"):
        with pytest.raises(ConfigError, match=name):
            algorithm.Config(**{name: True})
