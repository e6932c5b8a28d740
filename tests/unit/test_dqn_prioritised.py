"""DQN on a prioritised table: importance weights, the priorities it gives back, and those that actors compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms import make
from core.algorithms.dqn import DQN, initial_priorities
from core.algorithms.dqn_settings import DQNConfig
from core.algorithms.signature import item_signature
from core.errors import ConfigError
from core.rl.importance import importance_weights
from core.rl.optim import flatten
from core.rl.qnetworks import QNetwork
from core.specs import ActionSpec, ArraySpec, ColumnSpec, EnvSpec
from core.types import Array, Columns, Context, Replay, Task
from tests.unit.test_dqn import SPEC, batch_of, dqn, new_network

TASK = Task(seed=1, slot=0, slots=1, round=0)


def context(env_steps: int = 50) -> Context:
    return Context(np.random.default_rng(0), 0, env_steps, budget_env_steps=100)


def test_importance_weights_are_literal_and_at_most_1() -> None:
    probability = torch.tensor([[0.01, 0.04, 0.16], [0.5, 0.5, 0.5]], dtype=torch.float64)
    weights = importance_weights(probability, 0.5)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]]))
    assert importance_weights(probability, 0.0).tolist() == [[1.0] * 3] * 2


def test_one_step_by_hand_with_importance_weights() -> None:
    spec = EnvSpec("Test-v0", ArraySpec((1,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=2))
    settings: dict[str, Any] = {"hidden": (), "batch_size": 2, "min_size": 2, "gamma": 0.0, "huber": False}
    settings["target_update_interval"] = 0
    algorithm = DQN(
        DQNConfig(replay="prioritised", importance_exponent=0.0, learning_rate=0.1, max_grad_norm=None, **settings)
    )
    network = algorithm.network(spec)
    flatten(network).data.zero_()
    network.layers.params()[0].data[0, 0] = 1.0  # Q(1, 0) = 1
    batch = {
        "obs": torch.ones(2, 2, 1),
        "action": torch.zeros(1, 2, dtype=torch.int64),
        "reward": torch.tensor([[0.0, 3.0]]),
        "discount": torch.ones(1, 2),
        "valid": torch.ones(1, 2, dtype=torch.uint8),
        "probability": torch.tensor([0.05, 0.8], dtype=torch.float64),
    }
    result = algorithm.update(network, algorithm.state(network), batch, context(env_steps=50))
    # half of the budget: exponent 0.5, so weights 1 and 16^-0.5 = 0.25; squared errors 1 and 4
    assert result.metrics["loss"] == pytest.approx(0.5 * (1 * 1 + 0.25 * 4))
    # d loss / d Q = 0.5 (1 x 2 x 1 + 0.25 x 2 x -2) = 0.5, for the weight and for the bias; unweighted it would be -1
    assert result.metrics["grad_norm"] == pytest.approx(0.5 * 2**0.5)
    weights, biases = (p.detach().flatten().tolist() for p in network.layers.params())
    assert [*weights, *biases] == pytest.approx([0.9, 0, -0.1, 0], abs=1e-6)
    assert result.priorities is not None
    np.testing.assert_allclose(result.priorities, [1 + 1e-6, 2 + 1e-6], rtol=1e-7)


def test_the_exponent_reaches_1_with_the_budget() -> None:
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4] * 2, dtype=torch.float64)
    losses = []
    for env_steps, weights in ((0, [1, 2**-0.4, 3**-0.4, 4**-0.4]), (100, [1, 1 / 2, 1 / 3, 1 / 4])):
        algorithm = dqn(replay="prioritised")
        network = new_network(algorithm)
        got = algorithm.update(
            network, algorithm.state(network), {**batch_of(), "probability": probability}, context(env_steps)
        )
        each = [loss_of_one(batch_of(), item) for item in range(8)]
        assert got.metrics["loss"] == pytest.approx(np.dot(each, weights * 2) / 8, rel=1e-5)
        losses.append(got.metrics["loss"])
    assert losses[1] < losses[0]


def loss_of_one(batch: dict[str, torch.Tensor], item: int) -> float:
    """The loss of a batch in which only one item counts, without importance weights."""
    algorithm = dqn()
    network = new_network(algorithm)
    batch["valid"][:] = 0
    batch["valid"][0, item] = 1
    return algorithm.update(network, algorithm.state(network), batch, context()).metrics["loss"]


@pytest.mark.parametrize("settings", [{}, {"double": True}, {"n_step": 3}])
def test_priorities_come_in_the_order_of_the_items_over_all_batches(settings: dict[str, Any]) -> None:
    algorithm = dqn(replay="prioritised", learning_rate=1e-12, **settings)
    network = new_network(algorithm)
    batch = batch_of(5 * 8, algorithm.config.n_step)
    batch["valid"][1:][batch["discount"][:-1] == 0] = 0  # below a termination is a reset row
    wanted = [slow_error(algorithm.config, network, batch, item) + 1e-6 for item in range(40)]
    batch["probability"] = torch.rand(40, dtype=torch.float64) + 0.1
    result = algorithm.update(network, algorithm.state(network), batch, context())
    assert result.updates == 5
    assert result.priorities is not None
    assert result.priorities.dtype == np.float32
    np.testing.assert_allclose(result.priorities, wanted, rtol=1e-4, atol=1e-5)


def slow_error(config: DQNConfig, network: QNetwork, batch: dict[str, torch.Tensor], item: int) -> float:
    """|y - Q| of one window, row by row."""
    total, factor, row = 0.0, 1.0, 0
    while True:
        total += factor * float(batch["reward"][row, item])
        factor *= config.gamma * float(batch["discount"][row, item])
        row += 1
        if row == config.n_step or batch["valid"][row, item] == 0 or factor == 0:
            break
    q = network(batch["obs"][:, item]).detach()
    return abs(total + factor * float(q[row].max()) - float(q[0, int(batch["action"][0, item]) - 2]))


def test_a_uniform_table_gets_no_priorities() -> None:
    algorithm = dqn()
    network = new_network(algorithm)
    assert algorithm.update(network, algorithm.state(network), batch_of(), context()).priorities is None


# ------------------------------------------------------------------------------------------------ on the actor


def unroll_of(rows: int, envs: int, seed: int) -> dict[str, Array]:
    """Random episodes with reset rows as NEXT_STEP autoreset makes them."""
    rng = np.random.default_rng(seed)
    valid, discount = np.ones((rows, envs), np.uint8), np.ones((rows, envs), np.float32)
    for b in range(envs):
        ended = bool(rng.random() < 0.3)
        for t in range(rows):
            valid[t, b] = not ended
            ended = not ended and bool(rng.random() < 0.3)
            discount[t, b] = 0.0 if ended and rng.random() < 0.5 else 1.0
    return {
        "obs": rng.normal(size=(rows + 1, envs, 3)).astype(np.float32),
        "action": rng.integers(2, 6, (rows, envs)),
        "reward": (rng.normal(size=(rows, envs)) * valid).astype(np.float32),
        "discount": discount,
        "valid": valid,
    }


def slow_priority(config: DQNConfig, network: QNetwork, unroll: Columns, t: int, b: int) -> float:
    """The n-step TD error of one row, followed step by step; +inf where the unroll ends before it is known."""
    if unroll["valid"][t, b] == 0:
        return 0.0
    q = network(torch.from_numpy(unroll["obs"])).detach().numpy()
    total, factor, at = 0.0, 1.0, t
    while True:
        total += factor * unroll["reward"][at, b]
        factor *= config.gamma
        if unroll["discount"][at, b] == 0:
            factor = 0.0
            break
        at += 1
        if at - t == config.n_step:
            break
        if at == len(unroll["valid"]):
            return np.inf
        if unroll["valid"][at, b] == 0:
            break
    bootstrap = q[at, b].max() if factor else 0.0
    return float(abs(total + factor * bootstrap - q[t, b, unroll["action"][t, b] - 2]) + 1e-6)


@pytest.mark.parametrize("n_step", [1, 3, 9])
@pytest.mark.parametrize("seed", range(4))
def test_actors_compute_td_errors_as_a_slow_loop_does(n_step: int, seed: int) -> None:
    algorithm = dqn(replay="prioritised", actor_priorities=True, n_step=n_step, gamma=0.9)
    network = new_network(algorithm)
    unroll = unroll_of(6, 5, seed)
    item = algorithm.item(network, unroll, TASK)
    wanted = [[slow_priority(algorithm.config, network, unroll, t, b) for b in range(5)] for t in range(6)]
    assert item["priority"].dtype == np.float32
    np.testing.assert_allclose(item["priority"], wanted, rtol=1e-5, atol=1e-6)
    assert bool(np.isinf(wanted).any()) == (n_step > 1)
    assert (unroll["valid"] == 0).any()
    assert all(item[name] is column for name, column in unroll.items())


def test_the_last_rows_wait_for_the_next_unroll_unless_the_episode_ends_in_them() -> None:
    algorithm = dqn(replay="prioritised", actor_priorities=True, n_step=3)
    unroll = unroll_of(5, 3, 0)
    unroll["valid"][:], unroll["discount"][:] = 1, 1
    unroll["discount"][4, 1] = 0  # terminated: nothing beyond the unroll counts
    unroll["valid"][4, 2] = 0  # truncated at row 3
    known = np.isfinite(initial_priorities(algorithm.config, new_network(algorithm), unroll))
    assert known.T.astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_the_signature_has_the_actors_column_and_the_plan_says_how_to_draw() -> None:
    algorithm = make(
        "dqn", {"hidden": [8], "replay": "prioritised", "actor_priorities": True, "priority_exponent": 0.7, "n_step": 5}
    )
    signature = item_signature(algorithm, algorithm.network(SPEC), SPEC, envs=2)
    assert signature.columns["priority"] == ColumnSpec(ArraySpec((), "float32"))
    assert (signature.max_rows, signature.max_envs) == (16, 2)
    table = algorithm.plan().table
    assert isinstance(table, Replay)
    assert (table.prioritised, table.priority_exponent) == (True, 0.7)
    assert not make("dqn", {}).plan().table.prioritised  # type: ignore[union-attr]


def test_actor_priorities_without_a_prioritised_table_are_refused() -> None:
    with pytest.raises(ConfigError, match="actor_priorities: are for a prioritised table"):
        DQNConfig(actor_priorities=True)
