"""a2c, actor_critic and impala: one optimiser step against formulas in float64, one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.a2c import A2C, A2CConfig
from core.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from core.algorithms.impala import Impala, ImpalaConfig
from core.errors import ConfigError
from core.rl.optim import flatten
from core.rl.returns import vtrace
from tests.unit.unrolls import (
    BOX,
    Batch,
    ByHand,
    T,
    assert_close,
    batch,
    context,
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
