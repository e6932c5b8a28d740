"""PPO against a reference that goes row by row in float64."""

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.ppo import PPO, Minibatch, PPOConfig, loss
from core.rl.distributions import Categorical
from core.rl.networks import ActorCritic
from core.rl.optim import flatten
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Context

SPEC = EnvSpec("Test-v0", ArraySpec((3,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=3, start=5))
T, B = 6, 2
Batch = dict[str, torch.Tensor]


def config(**settings: Any) -> PPOConfig:
    given = {
        "hidden": (8,),
        "epochs": 1,
        "minibatch_size": T * B,
        "adam_eps": 1e-2,
        "learning_rate": 0.1,
        "shared_trunk": True,
    }
    return PPOConfig(**{**given, **settings})


def context(env_steps: int = 0) -> Context:
    return Context(np.random.default_rng(3), round=0, env_steps=env_steps, budget_env_steps=100)


def new_network(algorithm: PPO) -> ActorCritic:
    torch.manual_seed(0)
    network = algorithm.network(SPEC)
    flatten(network).data.mul_(1.5)
    return network


@pytest.fixture
def batch() -> Batch:
    """Column 0: truncated at row 1, reset at row 2, terminated at row 4, reset at row 5. Column 1: one episode."""
    rng = np.random.default_rng(0)
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


def by_hand(c: PPOConfig, network: ActorCritic, batch: Batch) -> list[torch.Tensor]:
    """The parameters after one Adam step, from textbook formulas, one row at a time."""
    params = [p.detach().double().requires_grad_() for p in network.parameters()]
    data = {name: column.double() for name, column in batch.items()}
    rows = [(t, b) for b in range(B) for t in range(T) if data["valid"][t, b] == 1]

    def outputs(t: int, b: int) -> torch.Tensor:
        return params[2] @ torch.tanh(params[0] @ data["obs"][t, b] + params[1]) + params[3]

    def value(t: int, b: int) -> float:
        return float(outputs(t, b)[-1].detach())

    advantages = []
    for t, b in rows:
        advantage, factor, k = 0.0, 1.0, t
        while k < T and data["valid"][k, b] == 1:
            after = c.gamma * float(data["discount"][k, b]) * value(k + 1, b)
            advantage += factor * (float(data["reward"][k, b]) + after - value(k, b))
            factor *= c.gamma * c.gae_lambda
            k += 1
        advantages.append(advantage)
    scaled = np.array(advantages)
    if c.normalise_advantages:
        scaled = (scaled - scaled.mean()) / scaled.std()
    total = torch.zeros((), dtype=torch.float64)
    for (t, b), raw, advantage in zip(rows, advantages, scaled, strict=True):
        out = outputs(t, b)
        policy = torch.distributions.Categorical(logits=out[:-1])
        ratio = torch.exp(policy.log_prob(data["action"][t, b] - 5) - data["log_prob"][t, b])
        clipped = torch.clip(ratio, 1 - c.clip, 1 + c.clip)
        surrogate = min(ratio * advantage, clipped * advantage)
        target = raw + value(t, b)
        error = (out[-1] - target) ** 2
        total += -surrogate + c.value_coefficient * error - c.entropy_coefficient * policy.entropy()
    gradients = torch.autograd.grad(total / len(rows), params)
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    scale = 1.0 if c.max_grad_norm is None else min(1.0, c.max_grad_norm / norm)
    # Adam's first step: both moments, corrected for their bias, are the gradient and its square
    return [
        p - c.learning_rate * scale * g / ((scale * g).abs() + c.adam_eps)
        for p, g in zip(params, gradients, strict=True)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalise_advantages": False, "max_grad_norm": None},
        {"max_grad_norm": 0.01, "gae_lambda": 0.5, "entropy_coefficient": 0.5, "clip": 0.05},
    ],
)
def test_one_step_parameter_by_parameter(batch: Batch, settings: dict[str, Any]) -> None:
    algorithm = PPO(config(**settings))
    network = new_network(algorithm)
    wanted = by_hand(algorithm.config, network, batch)
    result = algorithm.update(network, algorithm.state(network), batch, context())
    assert result.updates == 1
    for (name, parameter), reference in zip(network.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.detach().double(), reference.detach(), rtol=1e-4, atol=1e-5, msg=name)


def updated(c: PPOConfig, batch: Batch) -> torch.Tensor:
    algorithm = PPO(c)
    network = new_network(algorithm)
    algorithm.update(network, algorithm.state(network), batch, context())
    return flatten(network).data


@pytest.mark.parametrize("settings", [{}, {"clip_value": 0.1}, {"minibatch_size": 5, "epochs": 3}])
def test_what_stands_in_reset_rows_has_no_influence(batch: Batch, settings: dict[str, Any]) -> None:
    before = updated(config(**settings), batch)
    reset = batch["valid"] == 0
    for name, garbage in (("reward", 1e3), ("log_prob", -9.0), ("discount", 0.0), ("action", 7)):
        batch[name][reset] = garbage
    assert torch.equal(before, updated(config(**settings), batch))
    batch["valid"][reset] = 1
    assert not torch.equal(before, updated(config(**settings), batch))


def test_a_batch_without_a_single_step_changes_nothing(batch: Batch) -> None:
    batch["valid"].zero_()
    algorithm = PPO(config())
    assert torch.equal(updated(config(), batch), flatten(new_network(algorithm)).data)


def test_every_epoch_passes_over_every_row_once(batch: Batch) -> None:
    algorithm = PPO(config(minibatch_size=5, epochs=2))
    network = new_network(algorithm)
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    result = algorithm.update(network, algorithm.state(network), batch, context())
    assert (result.updates, [len(obs) for obs in seen]) == (6, [5, 5, 2, 5, 5, 2])
    wanted = batch["obs"][:-1].flatten(0, 1)[:, 0].sort().values
    for epoch in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(epoch)[:, 0].sort().values, wanted)
    assert not torch.equal(seen[0], seen[3])


def test_value_clip_stops_the_gradient_of_a_value_that_is_far_enough(batch: Batch) -> None:
    free = updated(config(epochs=4), batch)
    torch.testing.assert_close(free, updated(config(epochs=4, clip_value=1e3), batch), rtol=0, atol=0.01)
    near = updated(config(epochs=4, clip_value=1e-3), batch)
    assert float((free - near).abs().max()) > 0.05


def test_kl_stop_ends_after_the_epoch_that_went_too_far(batch: Batch) -> None:
    updates = []
    for target_kl in (None, 1e-9, 1e9):
        algorithm = PPO(config(epochs=3, target_kl=target_kl))
        network = new_network(algorithm)
        updates.append(algorithm.update(network, algorithm.state(network), batch, context()).updates)
    assert updates == [3, 1, 3]


def test_learning_rate_anneals_to_zero_by_progress(batch: Batch) -> None:
    algorithm = PPO(config(anneal_learning_rate=True))
    network = new_network(algorithm)
    state = algorithm.state(network)
    rates = [algorithm.update(network, state, batch, context(n)).metrics["learning_rate"] for n in (0, 50, 100)]
    assert rates == pytest.approx([0.1, 0.05, 0.0])
    before = flatten(network).snapshot()
    algorithm.update(network, state, batch, context(100))
    assert (flatten(network).snapshot() == before).all()


def test_metrics_of_an_update_on_the_policys_own_actions(batch: Batch) -> None:
    algorithm = PPO(config())
    network = new_network(algorithm)
    with torch.no_grad():
        distribution = network.policy(batch["obs"][:-1])
        batch["log_prob"] = distribution.log_prob(batch["action"] - 5)
    metrics = algorithm.update(network, algorithm.state(network), batch, context()).metrics
    on = batch["valid"] == 1
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_fraction"] == 0
    assert metrics["entropy"] == pytest.approx(float(distribution.entropy()[on].mean()), rel=1e-4)
    assert metrics["policy_loss"] == pytest.approx(0, abs=1e-6)
    assert metrics["explained_variance"] <= 1
    assert metrics["loss"] == pytest.approx(
        metrics["policy_loss"] + 0.5 * metrics["value_loss"] - 0.01 * metrics["entropy"], rel=1e-4
    )


def test_clipped_value_error_literal() -> None:
    old, new, target = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.8]), torch.tensor([2.0, 5.0])
    one = torch.ones(2)
    minibatch = Minibatch(one, torch.zeros(2, dtype=torch.int64), -0.7 * one, one, target, old, one)
    policy = Categorical.from_logits(torch.zeros(2, 2))
    _, terms = loss(config(clip_value=0.5), policy, new, minibatch)
    assert float(terms.value_loss) == (1.0 + 12.25) / 2  # (3 - 2)^2 beats (1.5 - 2)^2; (1.5 - 5)^2 beats (1.8 - 5)^2
