"""An LSTM along an unroll."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.algorithms.ppo import PPO, PPOConfig
from core.algorithms.signature import item_signature
from core.errors import ConfigError
from core.rl.lstm import LSTM
from core.rl.networks import ActorCritic
from core.rl.settings import PolicySettings
from core.specs import ArraySpec
from core.types import Task
from tests.unit.unrolls import SPEC, batch, context, network_of

TASK = Task(seed=1, slot=0, slots=1, round=0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_memory_along_an_unroll_equals_a_step_by_step_loop(shared: bool) -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, shared_trunk=shared))
    network, data = network_of(algorithm), batch()
    start = torch.from_numpy(np.random.default_rng(4).normal(size=(2, network.memory)).astype(np.float32))
    assert network.memory == (10 if shared else 20)
    with torch.no_grad():
        outputs = network.over({**data, "memory": start.unsqueeze(0)})
        memory = start
        for t in range(7):
            policy, after = network.act(data["obs"][t], memory)
            if t < 6:
                torch.testing.assert_close(outputs.policy[0][t], policy[0])
                memory = data["valid"][t].float().unsqueeze(1) * after
        torch.testing.assert_close(network.values({**data, "memory": start.unsqueeze(0)}), outputs.values_TB)
    assert not torch.allclose(outputs.policy[0][0], network.over(data).policy[0][0].detach())


def test_one_lstm_step_is_torchs() -> None:
    ours, theirs = LSTM(3, 4), torch.nn.LSTMCell(3, 4)
    theirs.weight_ih.data, theirs.weight_hh.data = ours.of_input.data, ours.of_outputs.data
    theirs.bias_ih.data, theirs.bias_hh.data = ours.bias.data, torch.zeros(16)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    outputs, memory = ours.step(x, torch.cat((h, c), -1))
    wanted_h, wanted_c = theirs(x, (h, c))
    torch.testing.assert_close(outputs, wanted_h)
    torch.testing.assert_close(memory, torch.cat((wanted_h, wanted_c), -1))


def test_ppo_learns_with_a_memory_and_keeps_unrolls_together() -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, epochs=2, minibatch_size=6))
    network = network_of(algorithm)
    data = {**batch(), "memory": torch.zeros(1, 2, network.memory)}
    result = algorithm.update(network, algorithm.state(network), data, context())
    assert result.updates == 4  # two epochs of two columns, each a minibatch


def test_the_memorys_column_has_one_row_whatever_the_unrolls_length() -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, unroll_length=9))
    signature = item_signature(algorithm, algorithm.network(SPEC), SPEC, 4)
    assert signature.max_rows == 9
    assert signature.columns["memory"].extra_rows == -8
    assert signature.columns["memory"].array == ArraySpec((20,), "float32")


def test_a_policy_with_a_memory_cannot_be_asked_for_single_rows() -> None:
    with pytest.raises(ConfigError, match="acts step by step"):
        ActorCritic(SPEC, PolicySettings(recurrent=4))(torch.zeros(2, 3))


# running statistics
