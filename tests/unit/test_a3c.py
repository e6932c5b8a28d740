"""a3c: what an actor sends, what the learner does with it, and head q."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.a2c import A2C, A2CConfig
from core.algorithms.a2c import loss as a2c_loss
from core.algorithms.a3c import A3C, FIGURES, A3CConfig, OnlineAndTarget
from core.errors import ConfigError
from core.rl.optim import flatten
from core.types import Async, Columns, Queue, Task
from tests.unit.unrolls import T, batch, context, network_of, rows

TASK = Task(seed=1, slot=0, slots=2, round=0)


def columns(seed: int = 0) -> Columns:
    return {name: column.numpy() for name, column in batch(seed).items() if name != "log_prob"}


def test_the_plan_says_that_an_actor_waits_for_its_own_gradient() -> None:
    plan = A3C(A3CConfig(max_staleness=3)).plan()
    assert (plan.table, plan.pace) == (Queue(1), Async(3, own_applied=True))


def test_an_item_is_the_gradient_of_the_a2c_loss_and_its_figures() -> None:
    algorithm = A3C(A3CConfig(hidden=(4,), gamma=0.9))
    network = network_of(algorithm)
    item = algorithm.item(network, columns(), TASK)
    losses = a2c_loss(A2CConfig(hidden=(4,), gamma=0.9), network, batch(), entropy_coefficient=0.01)
    wanted = torch.autograd.grad(losses.total, list(network.parameters()))
    views = flatten(network).views(torch.from_numpy(item["gradient"][0, 0]))
    for got, want in zip(views, wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert {name: item[name].shape for name in FIGURES} == dict.fromkeys(FIGURES, (1, 1))
    assert item["loss"][0, 0] == pytest.approx(float(losses.total.detach()))
    assert item["entropy"][0, 0] == pytest.approx(float(losses.entropy))


def test_gradients_are_applied_in_order_by_shared_rmsprop_parameter_by_parameter() -> None:
    config = A3CConfig(hidden=(4,), learning_rate=0.1, anneal_learning_rate=False, max_grad_norm=None, rmsprop_eps=0.01)
    algorithm = A3C(config)
    network = network_of(algorithm)
    items = [algorithm.item(network, columns(seed), TASK) for seed in (0, 1)]
    theta, square = flatten(network).params.double().clone(), torch.ones(len(flatten(network).params)).double()
    for item in items:
        g = torch.from_numpy(item["gradient"][0, 0]).double()
        square = 0.99 * square + 0.01 * g**2
        theta -= 0.1 * g / (square + 0.01).sqrt()
    joined = {name: torch.from_numpy(np.concatenate([item[name] for item in items], 1)) for name in items[0]}
    result = algorithm.update(network, algorithm.state(network), joined, context())
    assert result.updates == 2
    torch.testing.assert_close(flatten(network).params.double(), theta, rtol=1e-5, atol=1e-6)
    assert result.metrics["loss"] == pytest.approx(np.mean([item["loss"] for item in items]), rel=1e-5)


def test_gradients_are_clipped_to_their_norm() -> None:
    algorithm = A3C(A3CConfig(hidden=(4,), max_grad_norm=1e-6))
    network = network_of(algorithm)
    state, before = algorithm.state(network), flatten(network).snapshot()
    item = {name: torch.from_numpy(column) for name, column in algorithm.item(network, columns(), TASK).items()}
    algorithm.update(network, state, item, context())
    assert np.abs(flatten(network).snapshot() - before).max() < 1e-8


# head q


def q_algorithm(**settings: Any) -> A3C:
    return A3C(A3CConfig(head="q", hidden=(), gamma=0.9, **settings))


@pytest.mark.parametrize("trace_decay", [1.0, 0.0])
def test_head_q_descends_the_error_to_returns_by_the_target_network(trace_decay: float) -> None:
    algorithm = q_algorithm(trace_decay=trace_decay)
    network = network_of(algorithm)
    network.target.layers.params()[0].data.mul_(-2)
    data, online = batch(), [p.detach().double().requires_grad_() for p in network.online.parameters()]
    w, b = (p.detach().double() for p in network.target.layers.params())
    total = torch.zeros((), dtype=torch.float64)
    for t, column in rows(data):
        value, factor, k = 0.0, 1.0, t
        while True:
            value += factor * float(data["reward"][k, column])
            factor *= 0.9 * float(data["discount"][k, column])
            k += 1
            if trace_decay == 0 or k == T or not data["valid"][k, column] or factor == 0:
                break
        value += factor * float((w @ data["obs"][k, column].double() + b).max())
        q = online[0] @ data["obs"][t, column].double() + online[1]
        total = total + (q[int(data["action"][t, column]) - 5] - value) ** 2
    wanted = torch.autograd.grad(total / len(rows(data)), online)
    item = algorithm.item(network, columns(), TASK)
    views = flatten(network).views(torch.from_numpy(item["gradient"][0, 0]))
    assert len(views) == 2  # the target network's parameters are not sent
    for got, want in zip(views, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_the_target_network_follows_by_env_steps_and_is_published() -> None:
    algorithm = q_algorithm(target_update_interval=50)
    network = network_of(algorithm)
    assert isinstance(network, OnlineAndTarget)
    state = algorithm.state(network)
    item = {name: torch.from_numpy(column) for name, column in algorithm.item(network, columns(), TASK).items()}
    for env_steps, equal in ((10, False), (50, True), (60, False), (100, True)):
        algorithm.update(network, state, item, context(env_steps))
        both = zip(network.online.parameters(), network.target.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in both) is equal, env_steps
    assert len(flatten(network).snapshot()) == len(flatten(network).params)


def test_every_actor_anneals_to_an_epsilon_of_its_own() -> None:
    algorithm = q_algorithm(epsilon_anneal_env_steps=100)
    tasks = [Task(seed=3, slot=slot, slots=400, round=8, env_steps=10**6) for slot in range(400)]
    ends = [round(algorithm.epsilon(task), 9) for task in tasks]
    shares = [ends.count(end) / 400 for end in (0.1, 0.01, 0.5)]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.08)
    assert ends == [round(algorithm.epsilon(task._replace(round=9)), 9) for task in tasks]
    assert algorithm.epsilon(tasks[0]._replace(env_steps=0)) == 1.0
    assert algorithm.epsilon(tasks[0]._replace(env_steps=50)) == pytest.approx((1 + ends[0]) / 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"normalise_observations": True}, "normalise_observations: a3c's learner sees gradients"),
        ({"normalise_rewards": True}, "normalise_rewards: a3c's learner sees gradients"),
        ({"head": "q", "recurrent": 8}, "head: q has neither a memory nor a trunk"),
    ],
)
def test_what_gradients_cannot_carry_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        A3CConfig(**settings)


def test_a2c_and_a3c_are_different_plans() -> None:
    assert A2C(A2CConfig()).plan() != A3C(A3CConfig()).plan()
