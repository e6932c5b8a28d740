from dataclasses import replace

import numpy as np
import pytest
import torch

from core.rl.acting import epsilon_greedy, from_env, sampling, to_env
from core.rl.networks import ActorCritic
from core.rl.qnetworks import QNetwork
from core.rl.settings import NetworkSettings, PolicySettings
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Array, Policy, Task

DISCRETE = EnvSpec("Test-v0", ArraySpec((4,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=4))
SHIFTED = replace(DISCRETE, action=replace(DISCRETE.action, start=-3))
BOX = replace(DISCRETE, action=ActionSpec("box", ArraySpec((2, 3), "float32"), low=(-1.0,) * 6, high=(1.0,) * 6))
TASK = Task(seed=7, slot=1, slots=2, round=5)
ENVS, ROWS = 50, 200
CHI2_3_AT_1E_6 = 30.66
OBS = np.full((ENVS, 4), 0.5, np.float32)


def chi_square(actions: Array, probabilities: Array) -> float:
    expected = probabilities * actions.size
    return float(((np.bincount(actions.ravel(), minlength=4) - expected) ** 2 / expected).sum())


def acted(policy: Policy, rows: int = ROWS) -> Array:
    return np.stack([policy(OBS, None).action for _ in range(rows)])


@pytest.fixture
def actor_critic() -> ActorCritic:
    torch.manual_seed(0)
    network = ActorCritic(DISCRETE, PolicySettings(hidden=(8,), activation="tanh", shared_trunk=True))
    network.both.params()[-1].data[:4] = torch.tensor([0.5, 0.0, -0.5, 1.0])
    return network


@pytest.fixture
def q_network() -> QNetwork:
    torch.manual_seed(0)
    network = QNetwork(DISCRETE, NetworkSettings(hidden=(8,), activation="relu"), dueling=False)
    network.layers.params()[-1].data[2] = 100.0  # action 2 is the greedy one
    return network


def test_sampling_follows_the_policy_and_records_its_log_prob(actor_critic: ActorCritic) -> None:
    policy = sampling(actor_critic, TASK, rows=ROWS // 3)  # noise is drawn four times
    log_probs = actor_critic.policy(torch.from_numpy(OBS))[0].detach().numpy()[0]
    assert chi_square(acted(policy), np.exp(log_probs)) < CHI2_3_AT_1E_6
    assert chi_square(acted(policy), np.full(4, 0.25)) > CHI2_3_AT_1E_6
    step = policy(OBS, None)
    np.testing.assert_allclose(step.columns["log_prob"], log_probs[step.action], rtol=1e-5)
    assert (step.action.dtype.name, step.columns["log_prob"].dtype.name, step.memory) == ("int64", "float32", None)


def test_neither_rows_nor_environments_share_noise(actor_critic: ActorCritic) -> None:
    actions = acted(sampling(actor_critic, TASK, rows=10), rows=20)
    assert len(np.unique(actions, axis=0)) == 20
    assert len(np.unique(actions, axis=1).T) == ENVS


@pytest.mark.parametrize("kind", ["sampling", "epsilon_greedy"])
def test_a_task_fixes_the_actions(actor_critic: ActorCritic, q_network: QNetwork, kind: str) -> None:
    def policy(task: Task) -> Policy:
        if kind == "sampling":
            return sampling(actor_critic, task, rows=8)
        return epsilon_greedy(q_network, task, epsilon=0.5, rows=8)

    first = acted(policy(TASK), rows=16)
    torch.manual_seed(123)
    assert (first == acted(policy(TASK), rows=16)).all()
    for other in (TASK._replace(round=6), TASK._replace(slot=0), TASK._replace(seed=8)):
        assert (first != acted(policy(other), rows=16)).any()


def test_without_explore_the_most_probable_action_is_taken(actor_critic: ActorCritic, q_network: QNetwork) -> None:
    greedy = TASK._replace(explore=False)
    assert (acted(sampling(actor_critic, greedy, rows=4), rows=6) == 3).all()
    assert (acted(epsilon_greedy(q_network, greedy, epsilon=1.0, rows=4), rows=6) == 2).all()


def test_epsilon_greedy_frequencies(q_network: QNetwork) -> None:
    epsilon = 0.4
    wanted = np.full(4, epsilon / 4)
    wanted[2] += 1 - epsilon
    assert chi_square(acted(epsilon_greedy(q_network, TASK, epsilon, ROWS // 3)), wanted) < CHI2_3_AT_1E_6
    never_greedy_when_exploring = np.full(4, epsilon / 3)
    never_greedy_when_exploring[2] = 1 - epsilon
    assert chi_square(acted(epsilon_greedy(q_network, TASK, epsilon, 50)), never_greedy_when_exploring) > CHI2_3_AT_1E_6


def test_discrete_actions_are_shifted_by_the_start_of_their_space(q_network: QNetwork) -> None:
    shifted = QNetwork(SHIFTED, NetworkSettings(hidden=(8,), activation="relu"), dueling=False)
    shifted.load_state_dict(q_network.state_dict())
    plain = acted(epsilon_greedy(q_network, TASK, 0.5, 8), rows=16)
    actions = acted(epsilon_greedy(shifted, TASK, 0.5, 8), rows=16)
    assert (actions == plain - 3).all()
    assert from_env(SHIFTED.action, torch.from_numpy(actions)).unique().tolist() == [0, 1, 2, 3]
    sampled = acted(
        sampling(ActorCritic(SHIFTED, PolicySettings(hidden=(8,), activation="tanh", shared_trunk=True)), TASK, 8),
        rows=16,
    )
    assert np.unique(sampled).tolist() == [-3, -2, -1, 0]


def test_box_actions_have_the_spaces_shape() -> None:
    torch.manual_seed(0)
    network = ActorCritic(BOX, PolicySettings(hidden=(8,), activation="tanh", shared_trunk=False))
    step = sampling(network, TASK, rows=4)(OBS, None)
    assert (step.action.shape, step.action.dtype.name) == ((ENVS, 2, 3), "float32")
    actions = from_env(BOX.action, torch.from_numpy(step.action))
    assert actions.shape == (ENVS, 6)
    assert torch.equal(to_env(BOX.action, actions), torch.from_numpy(step.action))
    log_prob = network.policy(torch.from_numpy(OBS)).log_prob(actions).detach().numpy()
    np.testing.assert_allclose(step.columns["log_prob"], log_prob, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sampling", "epsilon_greedy"])
def test_noise_is_drawn_for_the_batch_that_is_there(actor_critic: ActorCritic, q_network: QNetwork, kind: str) -> None:
    def policy() -> Policy:
        if kind == "sampling":
            return sampling(actor_critic, TASK, rows=8)
        return epsilon_greedy(q_network, TASK, epsilon=1.0, rows=8)

    acting = policy()
    acting(OBS[:1], None)
    assert len(np.unique(acting(OBS, None).action)) > 1  # one environment's noise is not shared by all
    acting = policy()
    assert [acting(OBS[:envs], None).action.shape for envs in (5, 3, 3, 5)] == [(5,), (3,), (3,), (5,)]
