"""a2c, actor_critic, impala and reinforce: one optimiser step against formulas in float64, one row at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.a2c import A2C, A2CConfig
from core.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from core.algorithms.impala import Impala, ImpalaConfig
from core.algorithms.reinforce import Reinforce, ReinforceConfig, baseline, loss
from core.errors import ConfigError
from core.rl.networks import PolicyNetwork
from core.rl.optim import flatten
from core.rl.returns import vtrace
from tests.unit.unrolls import (
    BOX,
    SPEC,
    Batch,
    ByHand,
    T,
    assert_close,
    batch,
    context,
    episodes,
    first_adam,
    network_of,
    rows,
)

COMMON: dict[str, Any] = {"hidden": (), "learning_rate": 0.1, "max_grad_norm": None}


def return_of(data: Batch, hand: ByHand, t: int, b: int, gamma: float) -> float:
    """Rewards from a row to its episode's or unroll's end, and the value of the observation behind."""
    total, factor = 0.0, 1.0
    while True:
        total += factor * float(data["reward"][t, b])
        factor *= gamma * float(data["discount"][t, b])
        t += 1
        if t == T or not data["valid"][t, b] or factor == 0:
            return total + factor * float(hand.value(data["obs"][t, b]).detach())


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_a2c_one_step_parameter_by_parameter(optimiser: Any) -> None:
    config = A2CConfig(**COMMON, optimiser=optimiser, optimiser_eps=1e-2, gamma=0.9, entropy_coefficient=0.03)
    algorithm = A2C(config)
    network, data = network_of(algorithm), batch()
    hand, total = ByHand(network), torch.zeros((), dtype=torch.float64)
    for t, b in rows(data):
        target = return_of(data, hand, t, b, 0.9)
        value, log_probs = hand.value(data["obs"][t, b]), hand.log_probs(data["obs"][t, b])
        total = total - log_probs[int(data["action"][t, b]) - 5] * (target - float(value.detach()))
        total = total + 0.5 * (value - target) ** 2 + 0.03 * (log_probs.exp() * log_probs).sum()
    gradients = hand.gradients(total / len(rows(data)))
    if optimiser == "adam":
        wanted = first_adam(hand.params, gradients, 0.1, 1e-2)
    else:
        roots = [(0.99 + 0.01 * g**2 + 1e-2).sqrt() for g in gradients]
        wanted = [p.detach() - 0.1 * g / r for p, g, r in zip(hand.params, gradients, roots, strict=True)]
    result = algorithm.update(network, algorithm.state(network), data, context())
    assert result.metrics["loss"] == pytest.approx(float(total.detach()) / len(rows(data)), rel=1e-4)
    assert_close(network, wanted)


def test_a2c_anneals_learning_rate_and_entropy() -> None:
    algorithm = A2C(A2CConfig(**COMMON, anneal_learning_rate=True, anneal_entropy=True))
    network = network_of(algorithm)
    before = flatten(network).snapshot()
    result = algorithm.update(network, algorithm.state(network), batch(), context(env_steps=100))
    assert result.metrics["learning_rate"] == 0
    assert (flatten(network).snapshot() == before).all()


@pytest.mark.parametrize("settings", [{}, {"gamma": 0.5}])
def test_actor_critic_v_one_step_parameter_by_parameter(settings: dict[str, Any]) -> None:
    config = ActorCriticConfig(**COMMON, entropy_coefficient=0.0, **settings)
    algorithm = ActorCriticAlgorithm(config)
    network, data = network_of(algorithm), batch()
    hand, total = ByHand(network), torch.zeros((), dtype=torch.float64)
    for t, b in rows(data):
        after = float(data["discount"][t, b]) * float(hand.value(data["obs"][t + 1, b]).detach())
        target = float(data["reward"][t, b]) + config.gamma * after
        value = hand.value(data["obs"][t, b])
        total = total - hand.log_probs(data["obs"][t, b])[int(data["action"][t, b]) - 5] * (
            target - float(value.detach())
        )
        total = total + 0.5 * (value - target) ** 2
    gradients = hand.gradients(total / len(rows(data)))
    algorithm.update(network, algorithm.state(network), data, context())
    assert_close(network, first_adam(hand.params, gradients, 0.1, 1e-8))


@pytest.mark.parametrize("all_actions", [True, False])
def test_actor_critic_q_one_step_parameter_by_parameter(all_actions: bool) -> None:
    config = ActorCriticConfig(**COMMON, critic="q", all_actions=all_actions, entropy_coefficient=0.0)
    algorithm = ActorCriticAlgorithm(config)
    network, data = network_of(algorithm), batch()
    hand, total = ByHand(network), torch.zeros((), dtype=torch.float64)
    for t, b in rows(data):
        obs, after, action = data["obs"][t, b], data["obs"][t + 1, b], int(data["action"][t, b]) - 5
        expected = float((hand.log_probs(after).exp() * hand.value(after)).sum().detach())
        target = float(data["reward"][t, b]) + config.gamma * float(data["discount"][t, b]) * expected
        q, log_probs = hand.value(obs), hand.log_probs(obs)
        gain = (log_probs.exp() * q.detach()).sum() if all_actions else log_probs[action] * q[action].detach()
        total = total - gain + 0.5 * (q[action] - target) ** 2
    gradients = hand.gradients(total / len(rows(data)))
    algorithm.update(network, algorithm.state(network), data, context())
    assert_close(network, first_adam(hand.params, gradients, 0.1, 1e-8))


def test_a_q_critic_is_for_discrete_actions() -> None:
    with pytest.raises(ConfigError, match="set actor_critic\\.critic to v"):
        ActorCriticAlgorithm(ActorCriticConfig(critic="q")).network(BOX)


def slow_vtrace(data: Batch, values: Any, ratios: Any, gamma: float, rho_bar: float, c_bar: float, decay: float) -> Any:
    """Equation 1 with its sum and product written out, and the advantage of section 4.2."""
    corrected = np.array(values[:-1], np.float64)
    for t, b in rows(data):
        total, trace, factor, k = 0.0, 1.0, 1.0, t
        while True:
            discount = gamma * float(data["discount"][k, b])
            delta = float(data["reward"][k, b]) + discount * values[k + 1][b] - values[k][b]
            total += factor * trace * min(rho_bar, ratios[k][b]) * delta
            trace *= decay * min(c_bar, ratios[k][b])
            factor *= discount
            k += 1
            if k == T or not data["valid"][k, b] or factor == 0:
                break
        corrected[t, b] += total
    advantages = np.zeros_like(corrected)
    for t, b in rows(data):
        goes_on = t + 1 < T and data["valid"][t + 1, b]
        after = corrected[t + 1, b] if goes_on else values[t + 1][b]
        target = float(data["reward"][t, b]) + gamma * float(data["discount"][t, b]) * after
        advantages[t, b] = min(rho_bar, ratios[t][b]) * (target - values[t][b])
    return corrected, advantages


@pytest.mark.parametrize(("rho_bar", "c_bar", "decay"), [(1.0, 1.0, 1.0), (0.7, 0.5, 0.9), (5.0, 2.0, 1.0)])
def test_vtrace_is_the_papers_sum(rho_bar: float, c_bar: float, decay: float) -> None:
    data, rng = batch(), np.random.default_rng(1)
    values, log_ratios = rng.normal(size=(T + 1, 2)), rng.normal(size=(T, 2))
    found = vtrace(
        data["reward"],
        data["discount"],
        data["valid"].float(),
        torch.from_numpy(values).float(),
        torch.from_numpy(log_ratios).float(),
        0.9,
        rho_bar=rho_bar,
        c_bar=c_bar,
        trace_decay=decay,
    )
    corrected, advantages = slow_vtrace(data, values, np.exp(log_ratios), 0.9, rho_bar, c_bar, decay)
    np.testing.assert_allclose(found.values_TB, corrected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.advantages_TB, advantages, rtol=1e-4, atol=1e-5)


def test_vtrace_on_policy_is_the_n_step_return() -> None:
    data, algorithm = batch(), A2C(A2CConfig(**COMMON))
    network = network_of(algorithm)
    hand, values = ByHand(network), network.value(data["obs"]).detach()
    found = vtrace(data["reward"], data["discount"], data["valid"].float(), values, torch.zeros(T, 2), 0.99)
    for t, b in rows(data):
        assert float(found.values_TB[t, b]) == pytest.approx(return_of(data, hand, t, b, 0.99), rel=1e-4, abs=1e-5)


def test_impala_one_step_parameter_by_parameter() -> None:
    config = ImpalaConfig(**COMMON, rho_bar=0.9, entropy_coefficient=0.02, optimiser_eps=1e-2)
    algorithm = Impala(config)
    network, data = network_of(algorithm), batch()
    hand = ByHand(network)
    values = [[float(hand.value(data["obs"][t, b]).detach()) for b in range(2)] for t in range(T + 1)]
    log_probs = [
        [float(hand.log_probs(data["obs"][t, b])[int(data["action"][t, b]) - 5].detach()) for b in range(2)]
        for t in range(T)
    ]
    ratios = np.exp(np.array(log_probs) - data["log_prob"].double().numpy())
    targets, advantages = slow_vtrace(data, values, ratios, config.gamma, 0.9, 1.0, 1.0)
    total = torch.zeros((), dtype=torch.float64)
    for t, b in rows(data):
        logs = hand.log_probs(data["obs"][t, b])
        total = total - logs[int(data["action"][t, b]) - 5] * advantages[t, b] + 0.02 * (logs.exp() * logs).sum()
        total = total + 0.5 * (hand.value(data["obs"][t, b]) - targets[t, b]) ** 2
    gradients = hand.gradients(total / len(rows(data)))
    result = algorithm.update(network, algorithm.state(network), data, context())
    assert_close(network, first_adam(hand.params, gradients, 0.1, 1e-2))
    steps = [ratios[t, b] for t, b in rows(data)]
    assert result.metrics["ratio_mean"] == pytest.approx(np.mean(steps), rel=1e-4)
    assert result.metrics["clip_fraction"] == pytest.approx(np.mean(np.array(steps) > 0.9))


# reinforce


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
