"""DQN against a reference in numpy with its own backpropagation."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms.dqn import DQN, State, value_targets, windows
from core.algorithms.dqn_settings import DQNConfig
from core.errors import ConfigError
from core.rl.optim import flatten
from core.rl.qnetworks import QNetwork
from core.rl.settings import NetworkSettings
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Array, Context, Replay, Task

SPEC = EnvSpec("Test-v0", ArraySpec((3,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=4, start=2))
N = 8
CONTEXT = Context(np.random.default_rng(0), round=0, env_steps=50, budget_env_steps=100)
Batch = dict[str, torch.Tensor]


def dqn(**settings: Any) -> DQN:
    given = {"hidden": (16,), "batch_size": N, "learning_rate": 0.01, "target_update_interval": 3}
    return DQN(DQNConfig(**{**given, **settings}))


def new_network(algorithm: DQN, seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    network = algorithm.network(SPEC)
    flatten(network).data.mul_(1.5)
    return network


def batch_of(columns: int = N, after: int = 1, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    valid = (rng.random((after, columns)) < 0.7).astype(np.uint8)
    valid[0] = 1
    return {
        "obs": torch.from_numpy(rng.normal(size=(after + 1, columns, 3)).astype(np.float32)),
        "action": torch.from_numpy(rng.integers(2, 6, (after, columns))),
        "reward": torch.from_numpy((3 * rng.normal(size=(after, columns))).astype(np.float32)),
        "discount": torch.from_numpy((rng.random((after, columns)) < 0.6).astype(np.float32)),
        "valid": torch.from_numpy(valid),
    }


def by_hand(c: DQNConfig, network: QNetwork, target: QNetwork, batch: Batch) -> list[Array]:
    """Parameters after one Adam step on the windows' first transitions; y is a number, so nothing flows into it."""
    w0, b0, w1, b1 = (p.detach().double().numpy() for p in network.parameters())
    t0, c0, t1, c1 = (p.detach().double().numpy() for p in target.parameters())
    data = {name: column.double().numpy() for name, column in batch.items()}
    gradients = [np.zeros_like(p) for p in (w0, b0, w1, b1)]
    for i in range(N):
        obs, action, after = data["obs"][0, i], int(data["action"][0, i]) - 2, data["obs"][1, i]
        next_q = t1 @ np.maximum(t0 @ after + c0, 0) + c1
        chosen = (w1 @ np.maximum(w0 @ after + b0, 0) + b1) if c.double else next_q
        y = data["reward"][0, i] + c.gamma * data["discount"][0, i] * next_q[np.argmax(chosen)]
        hidden = np.maximum(w0 @ obs + b0, 0)
        error = (w1 @ hidden + b1)[action] - y
        slope = (np.clip(error, -1, 1) if c.huber else 2 * error) / N
        gradients[3][action] += slope
        gradients[2][action] += slope * hidden
        inner = slope * w1[action] * (hidden > 0)
        gradients[1] += inner
        gradients[0] += np.outer(inner, obs)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    scale = 1.0 if c.max_grad_norm is None else min(1.0, c.max_grad_norm / norm)
    steps = (c.learning_rate * scale * g / (np.abs(scale * g) + 1e-8) for g in gradients)
    return [p - step for p, step in zip((w0, b0, w1, b1), steps, strict=True)]


@pytest.mark.parametrize(
    "settings", [{}, {"huber": False, "max_grad_norm": None}, {"double": True}, {"max_grad_norm": 0.01, "gamma": 0.5}]
)
def test_one_step_parameter_by_parameter(settings: dict[str, Any]) -> None:
    algorithm = dqn(**settings)
    network = new_network(algorithm)
    state = algorithm.state(network)
    state.target_data.copy_(flatten(new_network(algorithm, seed=1)).data)  # a target network that differs
    batch = batch_of()
    wanted = by_hand(algorithm.config, network, state.target, batch)
    result = algorithm.update(network, state, batch, CONTEXT)
    assert result.updates == 1
    for (name, parameter), reference in zip(network.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(
            parameter.detach().double(), torch.from_numpy(reference), rtol=1e-4, atol=1e-5, msg=name
        )


def test_target_equals_online_at_step_0_and_is_its_own_copy() -> None:
    algorithm = dqn()
    network = new_network(algorithm)
    state = algorithm.state(network)
    obs = torch.randn(5, 3)
    assert torch.equal(network(obs), state.target(obs))
    assert torch.equal(state.online_data, state.target_data)
    flatten(network).data.add_(1)
    assert not torch.equal(network(obs), state.target(obs))
    assert not any(p.requires_grad for p in state.target.parameters())


def test_target_is_copied_every_interval_in_updates() -> None:
    algorithm = dqn(target_update_interval=3)
    network = new_network(algorithm)
    state = algorithm.state(network)
    snapshots = [state.target_data.clone()]
    for _ in range(7):
        algorithm.update(network, state, batch_of(), CONTEXT)
        snapshots.append(state.target_data.clone())
        if state.updates % 3 == 0:
            assert torch.equal(state.target_data, state.online_data)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(snapshots)]
    assert changed == [False, False, True, False, False, True, False]


def test_polyak_moves_the_target_a_share_of_the_way() -> None:
    algorithm = dqn(polyak=0.25)
    network = new_network(algorithm)
    state = algorithm.state(network)
    before = state.target_data.clone()
    algorithm.update(network, state, batch_of(), CONTEXT)
    torch.testing.assert_close(state.target_data, 0.75 * before + 0.25 * state.online_data)


@pytest.mark.parametrize("settings", [{}, {"double": True}, {"polyak": 0.1}, {"n_step": 3}, {"dueling": True}])
def test_a_rounds_batches_at_once_equal_one_call_each(settings: dict[str, Any]) -> None:
    algorithm = dqn(**settings)
    batch = batch_of(5 * N, algorithm.config.n_step)
    results = []
    for calls in (1, 5):
        network = new_network(algorithm)
        state = algorithm.state(network)
        parts = ({name: column.chunk(calls, 1)[i] for name, column in batch.items()} for i in range(calls))
        updates = sum(algorithm.update(network, state, part, CONTEXT).updates for part in parts)
        assert (updates, state.updates) == (5, 5)
        results.append((state.online_data, state.target_data))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_n_step_windows_bootstrap_where_the_episode_goes_on() -> None:
    algorithm = dqn(n_step=3, gamma=0.5)
    rows = torch.arange(4.0)
    batch = {
        "obs": torch.stack([rows, 10 + rows, 20 + rows], 1).unsqueeze(-1),
        "reward": torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [4.0, 0.0, 9.0]]),
        "discount": torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
        "valid": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.uint8),
    }
    obs, bootstrap_obs, returns, factors = windows(algorithm.config, batch)
    assert obs.flatten().tolist() == [0, 10, 20]
    assert bootstrap_obs.flatten().tolist() == [3, 12, 21]  # whole window | terminated at row 1 | truncated at row 0
    assert returns.tolist() == [3, 2, 1]
    assert factors.tolist() == [0.125, 0, 0.5]


class Literal(QNetwork):
    """Says what it is told, whatever it observes."""

    def __init__(self, q: list[list[float]]) -> None:
        super().__init__(SPEC, NetworkSettings(hidden=(1,)), dueling=False)
        self.said = torch.tensor(q)

    def returns(self, obs: torch.Tensor) -> torch.Tensor:
        return self.said.unsqueeze(-1)


def test_value_targets_literal() -> None:
    online, target = Literal([[1.0, 9.0], [9.0, 1.0]]), Literal([[4.0, 2.0], [4.0, 8.0]])
    obs, returns, factors = torch.zeros(2, 3), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0])
    plain = value_targets(dqn().config, online, target, obs, returns, factors)
    double = value_targets(dqn(double=True).config, online, target, obs, returns, factors)
    assert (plain.tolist(), double.tolist()) == ([3.0, 1.0], [2.0, 1.0])


def test_no_gradient_flows_through_the_value_target() -> None:
    algorithm = dqn(double=True)
    network = new_network(algorithm)
    obs = torch.randn(4, 3, requires_grad=True)
    targets = value_targets(algorithm.config, network, network, obs, torch.zeros(4), torch.ones(4))
    assert not targets.requires_grad


def test_columns_that_are_no_steps_have_no_influence() -> None:
    algorithm = dqn()
    batch = batch_of()
    batch["valid"][0, 3] = 0
    results = []
    for garbage in (0.0, 1e3):
        batch["reward"][0, 3] = garbage
        network = new_network(algorithm)
        algorithm.update(network, algorithm.state(network), batch, CONTEXT)
        results.append(flatten(network).data)
    assert torch.equal(results[0], results[1])


def test_epsilon_falls_with_the_runs_env_steps_and_reaches_the_policy() -> None:
    algorithm = dqn(epsilon_start=1.0, epsilon_end=0.2, epsilon_anneal_env_steps=100)
    assert [algorithm.epsilon(n) for n in (0, 50, 100, 900)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    network = new_network(algorithm)
    network.layers.params()[-1].data[1] = 100.0
    obs = np.zeros((20_000, 3), np.float32)
    for env_steps, epsilon in ((0, 1.0), (50, 0.6), (900, 0.2)):
        action = algorithm.policy(network, Task(0, 0, 1, 0, env_steps))(obs, None).action
        share = 1 - 0.75 * epsilon  # a uniform action is the greedy one in a quarter of cases
        assert abs((action == 3).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(obs))


def test_the_plan_says_what_a_window_needs() -> None:
    plan = dqn(n_step=5, batches_per_round=7).plan()
    assert isinstance(plan.table, Replay)
    assert (plan.table.before, plan.table.after, plan.table.batches_per_round, plan.table.batch_size) == (0, 5, 7, N)


def test_settings_that_cannot_go_together_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        DQNConfig(replay_capacity=500, min_size=1000, batch_size=2000)
    assert len(refused.value.problems) == 2
    assert all("lower the first or raise the second" in problem for problem in refused.value.problems)


def test_state_holds_the_target_network_and_the_count() -> None:
    algorithm = dqn()
    network = new_network(algorithm)
    state = algorithm.state(network)
    for _ in range(4):
        algorithm.update(network, state, batch_of(), CONTEXT)
    resumed = State(new_network(algorithm, seed=1))
    resumed.load_state_dict(state.state_dict())
    assert resumed.updates == 4
    assert torch.equal(resumed.target_data, state.target_data)
    other = State(DQN(DQNConfig(hidden=(32, 32))).network(SPEC))
    with pytest.raises(ValueError, match="target"):
        other.load_state_dict(state.state_dict())
