"""C51's projection and QR's loss against the papers' loops, noisy layers, and DQN with each of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.dqn import DQN, unrolled
from core.algorithms.dqn_settings import DQNConfig
from core.fields import build
from core.rl.acting import epsilon_greedy
from core.rl.noisy import NoisyMLP
from core.rl.optim import flatten
from core.rl.qnetworks import QNetwork
from core.rl.return_models import Atoms, Quantiles
from core.rl.returns import nstep
from core.rl.settings import NetworkSettings
from core.specs import ActionSpec, ArraySpec, EnvSpec, ObservationPart
from core.types import Context, Queue, Task
from tests.unit.test_dqn import SPEC, batch_of
from tests.unit.unrolls import batch

N = 8
TASK = Task(seed=1, slot=1, slots=3, round=4)


def slow_projection(p: Any, returns: Any, factors: Any, low: float, high: float) -> Any:
    """Algorithm 1 of Bellemare 2017, one atom at a time."""
    atoms = p.shape[1]
    step, found = (high - low) / (atoms - 1), np.zeros_like(p)
    for i in range(len(p)):
        for j in range(atoms):
            moved = min(high, max(low, returns[i] + factors[i] * (low + j * step)))
            place = (moved - low) / step
            lower, upper = math.floor(place), math.ceil(place)
            if lower == upper:
                found[i, lower] += p[i, j]
            else:
                found[i, lower] += p[i, j] * (upper - place)
                found[i, upper] += p[i, j] * (place - lower)
    return found


def test_c51s_projection_is_the_papers_loop() -> None:
    rng = np.random.default_rng(0)
    model, logits = Atoms(11, -2.0, 3.0), torch.from_numpy(rng.normal(size=(N, 11)))
    returns, factors = rng.normal(size=N) * 2, rng.choice([0.0, 0.5, 0.99], N)
    got = model.targets(logits.float(), torch.from_numpy(returns).float(), torch.from_numpy(factors).float())
    wanted = slow_projection(torch.softmax(logits, -1).numpy(), returns, factors, -2.0, 3.0)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


def test_c51s_loss_is_the_cross_entropy_and_its_priority_0_where_nothing_is_left() -> None:
    model = Atoms(3, 0.0, 2.0)
    logits, targets = torch.log(torch.tensor([[0.2, 0.3, 0.5]])), torch.tensor([[0.0, 0.5, 0.5]])
    assert float(model.losses(logits, targets)) == pytest.approx(-0.5 * math.log(0.3) - 0.5 * math.log(0.5))
    assert float(model.q(logits)) == pytest.approx(1.3)
    assert float(model.priorities(logits, torch.softmax(logits, -1))) == pytest.approx(0.0, abs=1e-6)
    assert float(model.priorities(logits, targets)) > 0.1


def test_qrs_loss_is_the_papers_double_sum() -> None:
    rng = np.random.default_rng(1)
    model = Quantiles(5)
    predicted, targets = rng.normal(size=(N, 5)) * 2, rng.normal(size=(N, 5)) * 2
    wanted = np.zeros(N)
    for n in range(N):
        for i in range(5):
            for j in range(5):
                u = targets[n, j] - predicted[n, i]
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                wanted[n] += abs((i + 0.5) / 5 - (u < 0)) * huber / 5
    got = model.losses(torch.from_numpy(predicted).float(), torch.from_numpy(targets).float())
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_qrs_fixed_point_is_the_quantiles_of_the_return() -> None:
    """Descending its loss on samples of a distribution finds that distribution's quantiles."""
    samples = torch.from_numpy(np.random.default_rng(2).exponential(2.0, 4000).astype(np.float32))
    model, theta = Quantiles(4), torch.zeros(1, 4, requires_grad=True)
    optimiser = torch.optim.Adam([theta], 0.05)
    for _ in range(600):
        optimiser.zero_grad()
        model.losses(theta / 0.01, samples.view(1, -1) / 0.01).sum().backward()  # so large that Huber is absolute
        optimiser.step()
    wanted = np.quantile(samples, [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(theta.detach()[0], wanted, atol=0.15)


# noisy layers


def test_noise_is_factorised_drawn_from_the_callers_generator_and_taken_away() -> None:
    torch.manual_seed(0)
    network, x = NoisyMLP((3, 4, 2), "relu", 0.5), torch.randn(5, 3)
    still = network(x)
    network.draw(np.random.default_rng(1))
    noisy = network(x)
    torch.rand(10)
    network.draw(np.random.default_rng(1))
    assert torch.equal(network(x), noisy)
    assert not torch.allclose(noisy, still)
    network.draw(np.random.default_rng(2))
    assert not torch.allclose(network(x), noisy)
    network.still()
    assert torch.equal(network(x), still)


def test_one_noisy_layer_by_hand() -> None:
    network = NoisyMLP((2, 3), "relu", 0.5)
    network.draw(np.random.default_rng(3))
    rng = np.random.default_rng(3)
    shaped = [np.sign(e) * np.sqrt(np.abs(e)) for e in (rng.standard_normal(n, np.float32) for n in (2, 3))]
    w, ws, b, bs = (p.detach().numpy() for p in network.params())
    x = np.array([0.3, -0.7], np.float32)
    wanted = (w + ws * np.outer(shaped[1], shaped[0])) @ x + b + bs * shaped[1]
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach(), wanted, rtol=1e-5)
    assert np.abs(w).max() <= 1 / math.sqrt(2)
    np.testing.assert_allclose(ws, 0.5 / math.sqrt(2))


# dqn with all of them


def algorithm(**settings: Any) -> DQN:
    return DQN(DQNConfig(**{"hidden": (16,), "batch_size": N, "min_size": N, "learning_rate": 0.01, **settings}))


def context() -> Context:
    return Context(np.random.default_rng(0), round=0, env_steps=50, budget_env_steps=100)


RAINBOW: dict[str, Any] = {
    "distribution": "c51",
    "noisy": True,
    "double": True,
    "dueling": True,
    "n_step": 3,
    "replay": "prioritised",
}


@pytest.mark.parametrize("settings", [{"distribution": "c51"}, {"distribution": "qr", "quantiles": 7}, RAINBOW])
def test_updates_lower_the_loss_on_one_batch(settings: dict[str, Any]) -> None:
    dqn = algorithm(**settings, target_update_interval=10_000)
    torch.manual_seed(0)
    network = dqn.network(SPEC)
    state, data = dqn.state(network), batch_of(N, dqn.config.n_step)
    data["probability"] = torch.full((N,), 1 / N, dtype=torch.float64)
    losses = [dqn.update(network, state, data, context()).metrics["loss"] for _ in range(150)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_rainbows_priorities_are_one_for_each_item_and_positive() -> None:
    dqn = algorithm(**RAINBOW)
    network = dqn.network(SPEC)
    data = {**batch_of(2 * N, 3), "probability": torch.full((2 * N,), 0.1, dtype=torch.float64)}
    result = dqn.update(network, dqn.state(network), data, context())
    assert result.priorities is not None
    assert result.priorities.shape == (2 * N,)
    assert (result.priorities > 0).all()


def test_c51_one_step_parameter_by_parameter() -> None:
    dqn = algorithm(distribution="c51", atoms=5, value_min=-3.0, value_max=3.0, hidden=(), max_grad_norm=None)
    torch.manual_seed(0)
    network = dqn.network(SPEC)
    data, (w, b) = batch_of(), (p.detach().double() for p in network.parameters())
    w.requires_grad_(), b.requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    z = torch.linspace(-3, 3, 5, dtype=torch.float64)
    for i in range(N):
        after = torch.softmax((w @ data["obs"][1, i].double() + b).view(4, 5), -1).detach()
        best = int((after @ z).argmax())
        factor = dqn.config.gamma * float(data["discount"][0, i])
        y = slow_projection(after[best : best + 1].numpy(), [float(data["reward"][0, i])], [factor], -3.0, 3.0)[0]
        logits = (w @ data["obs"][0, i].double() + b).view(4, 5)[int(data["action"][0, i]) - 2]
        total = total - (torch.from_numpy(y) * torch.log_softmax(logits, 0)).sum() / N
    gradients = torch.autograd.grad(total, (w, b))
    dqn.update(network, dqn.state(network), data, context())
    for got, p, g in zip(network.parameters(), (w, b), gradients, strict=True):
        wanted = p.detach() - 0.01 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(got.detach().double(), wanted, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("n_step", [1, 3])
def test_without_replay_an_unroll_is_cut_into_its_own_windows(n_step: int) -> None:
    data = batch()
    found = unrolled(DQNConfig(replay="none", n_step=n_step, target_update_interval=0), data)
    T, B = data["valid"].shape
    assert found["obs"].shape == (n_step + 1, T * B, 3)
    steps = nstep(found["reward"], found["discount"], found["valid"].float(), 0.9).steps_N.view(T, B)
    for t in range(T):
        for b in range(B):
            window = found["obs"][:, t * B + b]
            assert torch.equal(window[0], data["obs"][t, b])
            assert torch.equal(window[steps[t, b]], data["obs"][t + int(steps[t, b]), b])
            assert found["valid"][0, t * B + b] == data["valid"][t, b]
            assert t + int(steps[t, b]) <= T


def test_the_first_stage_learns_once_from_itself() -> None:
    dqn = algorithm(replay="none", target_update_interval=0, hidden=(), max_grad_norm=None, huber=False)
    assert isinstance(dqn.plan().table, Queue)
    spec = EnvSpec("T-v0", ArraySpec((3,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=3, start=5))
    torch.manual_seed(0)
    network = dqn.network(spec)
    data, (w, b) = batch(), (p.detach().double() for p in network.parameters())
    w.requires_grad_(), b.requires_grad_()
    total, steps = torch.zeros((), dtype=torch.float64), 0
    for t in range(6):
        for column in range(2):
            if data["valid"][t, column]:
                after = float((w @ data["obs"][t + 1, column].double() + b).max().detach())
                y = float(data["reward"][t, column]) + 0.99 * float(data["discount"][t, column]) * after
                q = (w @ data["obs"][t, column].double() + b)[int(data["action"][t, column]) - 5]
                total, steps = total + (q - y) ** 2, steps + 1
    gradients = torch.autograd.grad(total / steps, (w, b))
    result = dqn.update(network, dqn.state(network), data, context())
    assert result.updates == 1
    for got, p, g in zip(network.parameters(), (w, b), gradients, strict=True):
        wanted = p.detach() - 0.01 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(got.detach().double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_lost_life_ends_the_n_step_return_without_a_reset_row() -> None:
    reward, discount = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [0.0], [1.0]])
    found = nstep(reward, discount, torch.ones(3, 1), 0.5)
    assert (found.returns_N.tolist(), found.factors_N.tolist(), found.steps_N.tolist()) == ([2.0], [0.0], [2])


# exploration


def test_ape_x_epsilons_go_from_the_largest_to_the_smallest_over_all_environments() -> None:
    dqn = algorithm(epsilon_per_actor=True)
    found = np.concatenate([dqn.epsilons(TASK._replace(slot=slot))(4) for slot in range(3)])
    np.testing.assert_allclose(found, [0.4 ** (1 + 7 * i / 11) for i in range(12)])
    alone = [dqn.epsilons(Task(1, slot, 8, 0))(1)[0] for slot in range(8)]
    np.testing.assert_allclose(alone, [0.4 ** (1 + 7 * i / 7) for i in range(8)])


MASKED = EnvSpec(
    "Masked-v0",
    ArraySpec((16,), "uint8"),
    ActionSpec("discrete", ArraySpec((), "int64"), n=4),
    (
        ObservationPart("observation", ArraySpec((2,), "float32"), 0),
        ObservationPart("action_mask", ArraySpec((4,), "uint8"), 8),
    ),
)


def masked(masks: list[list[int]]) -> Any:
    obs = np.zeros((len(masks), 16), np.uint8)
    obs[:, 8:12] = masks
    return obs


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_only_legal_actions_are_taken_the_random_ones_evenly(epsilon: float) -> None:
    network = QNetwork(MASKED, NetworkSettings(hidden=(4,)), dueling=False)
    flatten(network).data.zero_()
    network.layers.params()[-1].data.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    policy = epsilon_greedy(network, TASK, epsilon, 64)
    obs = masked([[0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]])
    actions = np.stack([policy(obs, None).action for _ in range(300)])
    if epsilon == 0:
        assert (actions == [1, 2, 0]).all()
    else:
        counts = [np.bincount(column, minlength=4) for column in actions.T]
        np.testing.assert_allclose(counts[0], [0, 100, 100, 100], atol=30)
        np.testing.assert_allclose(counts[1], [0, 0, 150, 150], atol=40)
        assert counts[2].tolist() == [300, 0, 0, 0]


def test_the_bootstrap_is_over_legal_actions_only() -> None:
    network = QNetwork(MASKED, NetworkSettings(hidden=(4,)), dueling=False)
    flatten(network).data.zero_()
    network.layers.params()[-1].data.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert network.best(torch.from_numpy(masked([[0, 1, 1, 1], [0, 0, 0, 1]]))).tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_update_interval": 0, "double": True}, "double: needs a target network"),
        ({"target_update_interval": 0, "polyak": 0.1}, "polyak: moves a target network"),
        ({"gamma": 0.0}, "gamma: at 0 nothing is bootstrapped, so no target network is needed"),
        ({"replay": "none", "n_step": 40}, "n_step: without a replay table 40 rows must come from one unroll"),
        ({"distribution": "c51", "value_min": 1.0, "value_max": 1.0}, "value_min: 1 must be below value_max 1"),
        ({"noisy": True, "epsilon_per_actor": True}, "noisy: noise explores instead"),
        ({"recurrent": 64}, "recurrent: dqn has no memory; use ppo, a2c or impala"),
        ({"prioritised": True}, "prioritised: write replay: prioritised"),
    ],
)
def test_options_that_contradict_each_other_are_refused_with_what_to_do(settings: dict[str, Any], words: str) -> None:
    problems = build(DQNConfig, settings, "dqn")[1]
    assert any(words in problem for problem in problems), problems
