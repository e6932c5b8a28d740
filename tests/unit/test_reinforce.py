"""REINFORCE: one step by hand, and what baselines do to the mean and the variance of its gradient."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.reinforce import Reinforce, ReinforceConfig, baseline, loss
from core.errors import ConfigError
from core.rl.networks import PolicyNetwork
from core.rl.optim import flatten
from tests.unit.unrolls import (
    SPEC,
    Batch,
    ByHand,
    T,
    assert_close,
    context,
    episodes,
    first_adam,
    network_of,
    rows,
)

COMMON: dict[str, Any] = {"hidden": (), "learning_rate": 0.1, "max_grad_norm": None}


def literal_return(data: Batch, t: int, b: int, gamma: float) -> float:
    total, factor = 0.0, 1.0
    while t < T and data["valid"][t, b]:
        total += factor * float(data["reward"][t, b])
        factor *= gamma
        t += 1
    return total


@pytest.mark.parametrize("to_go", [True, False])
@pytest.mark.parametrize("fit", ["monte_carlo", "td"])
def test_reinforce_with_a_value_one_step_parameter_by_parameter(to_go: bool, fit: Any) -> None:
    config = ReinforceConfig(**COMMON, reward_to_go=to_go, value_fit=fit, gamma=0.9)
    algorithm = Reinforce(config)
    network, data = network_of(algorithm), episodes()
    hand, total = ByHand(network), torch.zeros((), dtype=torch.float64)
    for t, b in rows(data):
        value = hand.value(data["obs"][t, b])
        weight = literal_return(data, t if to_go else 0, b, 0.9) - float(value.detach())
        total = total - hand.log_probs(data["obs"][t, b])[int(data["action"][t, b]) - 5] * weight / 2
        target = literal_return(data, t, b, 0.9)
        if fit == "td":
            after = float(data["discount"][t, b]) * float(hand.value(data["obs"][t + 1, b]).detach())
            target = float(data["reward"][t, b]) + 0.9 * after
        total = total + 0.5 * (value - target) ** 2 / len(rows(data))
    gradients = hand.gradients(total)
    algorithm.update(network, algorithm.state(network), data, context())
    assert_close(network, first_adam(hand.params, gradients, 0.1, 1e-8))


def test_baselines_leave_the_episode_out_and_compare_like_with_like() -> None:
    returns = torch.tensor([[6.0, 9.0, 3.0], [4.0, 8.0, 1.0], [1.0, 5.0, 0.0]])
    valid = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

    def found(**settings: Any) -> Any:
        return baseline(ReinforceConfig(**settings), returns, valid)

    assert found(baseline="none").tolist() == [[0.0, 0.0, 0.0]]
    assert found(baseline="constant", reward_to_go=False).tolist() == [[6.0, 4.5, 7.5]]
    to_go = [(22 + 4) / 5, (11 + 4) / 5, (11 + 22) / 6]
    np.testing.assert_allclose(found(baseline="constant"), [to_go], rtol=1e-6)
    at_each = [[6.0, 4.5, 7.5], [4.5, 2.5, 6.0], [5.0, 1.0, 3.0]]
    np.testing.assert_allclose(found(baseline="time"), at_each, rtol=1e-6)


STEPS, EPISODES = 2, 3
REWARDS = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
"""Reward of an action at each step of a small problem without states."""


def sampled(rng: np.random.Generator, probabilities: Any, groups: int) -> Batch:
    action = torch.from_numpy(rng.choice(3, (STEPS, groups * EPISODES), p=probabilities))
    reward = REWARDS.gather(1, action)
    ones = torch.ones(STEPS, groups * EPISODES)
    return {
        "obs": torch.ones(STEPS + 1, groups * EPISODES, 3),
        "action": action + 5,
        "reward": reward,
        "discount": ones,
        "valid": ones.to(torch.uint8),
    }


def gradients_of(config: ReinforceConfig, groups: int, plain_mean: bool = False) -> Any:
    """Gradients with respect to the logits' biases, one for each group of EPISODES episodes; [groups, 3]."""
    algorithm = Reinforce(config)
    network = algorithm.network(SPEC)
    assert isinstance(network, PolicyNetwork)
    flatten(network).data.zero_()
    network.actor.params()[1].data.copy_(torch.tensor([0.5, 0.0, -0.5]))
    probabilities = torch.softmax(torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64), 0).numpy()
    data = sampled(np.random.default_rng(0), probabilities, groups)
    found = []
    for group in range(groups):
        part = {name: column[:, group * EPISODES : (group + 1) * EPISODES] for name, column in data.items()}
        if plain_mean:
            part["reward"] = (
                part["reward"]
                - part["reward"]
                .flip(0)
                .cumsum(0)
                .flip(0)
                .mean(1, keepdim=True)
                .diff(dim=0, append=torch.zeros(1, 1))
                .neg()
            )
        (gradient,) = torch.autograd.grad(loss(config, network, part).total, network.actor.params()[1])
        found.append(-gradient.numpy())
    return np.array(found)


def exact_gradient() -> Any:
    """By enumerating both steps' actions: the gradient of the expected return."""
    logits = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64, requires_grad=True)
    probabilities = torch.softmax(logits, 0)
    pairs = itertools.product(range(3), range(3))
    value = sum(probabilities[i] * probabilities[j] * (REWARDS[0, i] + REWARDS[1, j]) for i, j in pairs)
    assert isinstance(value, torch.Tensor)
    return torch.autograd.grad(value, logits)[0].numpy()


GROUPS = 500


def off_by(found: Any) -> float:
    """The largest distance from the exact gradient in standard errors."""
    errors = found.std(0) / np.sqrt(len(found))
    return float(np.abs((found.mean(0) - exact_gradient()) / errors).max())


@pytest.mark.slow
def test_no_baseline_changes_the_expected_gradient_and_each_lowers_its_variance() -> None:
    plain = {"hidden": (), "gamma": 1.0}
    variances = {}
    for name in ("none", "constant", "time"):
        for to_go in (True, False):
            found = gradients_of(ReinforceConfig(**plain, baseline=name, reward_to_go=to_go), GROUPS)  # type: ignore[arg-type]
            assert off_by(found) < 4, (name, to_go)
            variances[name, to_go] = found.var(0).sum()
    assert variances["none", False] > variances["none", True] > variances["time", True]
    assert variances["none", False] > variances["constant", False]


@pytest.mark.slow
def test_a_mean_that_holds_the_episode_itself_is_seen_to_be_wrong() -> None:
    """The wrong twin: it shrinks the expected gradient by (n - 1) / n."""
    config = ReinforceConfig(hidden=(), gamma=1.0, baseline="none")
    found = gradients_of(config, GROUPS, plain_mean=True)
    assert off_by(found) > 6
    shrunk = found.mean(0) * EPISODES / (EPISODES - 1)
    assert np.abs((shrunk - exact_gradient()) / (found.std(0) / np.sqrt(GROUPS))).max() < 6


def test_options_that_need_a_value_are_refused_without_one() -> None:
    with pytest.raises(ConfigError, match="shared_trunk: baseline time learns no value"):
        ReinforceConfig(baseline="time", shared_trunk=True)
    with pytest.raises(ConfigError, match="value_fit: baseline none learns no value"):
        ReinforceConfig(baseline="none", value_fit="td")
