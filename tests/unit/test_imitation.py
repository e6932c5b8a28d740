"""bc, dagger, experts, datasets, and what streams them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.replayer import Replayer
from core import checkpoint
from core.algorithms.bc import BC, BCConfig, imitate, losses
from core.algorithms.dagger import Dagger, DaggerConfig
from core.algorithms.expert import load_expert
from core.algorithms.ppo import PPO, PPOConfig
from core.config import Config
from core.errors import ConfigError
from core.rl.networks import PolicyNetwork
from core.rl.optim import flatten
from core.rl.settings import PolicySettings
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Array, Context, Recorded, Replay, Task
from learner.main import IN_FLIGHT_UNROLLS, resolve
from tests.unit.recording import write_dataset
from tests.unit.unrolls import BOX, SPEC, batch, network_of

TASK = Task(seed=1, slot=0, slots=1, round=0)
CONTEXT = Context(np.random.default_rng(0), round=0, env_steps=50, budget_env_steps=100)
DATASET = "test/imitation-v0"
LENGTHS = [5, 3, 4]


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        write_dataset(DATASET, SPEC, LENGTHS)
        yield


def by_sign(obs: Array) -> Array:
    """An expert: the action is 6 where the first number is positive, else 5."""
    return np.where(obs[:, 0] > 0, 6, 5)


NAME = "tests.unit.test_imitation:by_sign"


# datasets


def test_a_dataset_comes_as_unrolls_whose_rows_are_its_own() -> None:
    replayer = Replayer(SPEC, Recorded(DATASET, 7), envs=2, slot=0, slots=1, seed=3)
    seen = set()
    for _ in range(6):
        columns, episodes = replayer.collect(lambda obs, memory: pytest.fail("the policy is not asked"))
        assert episodes == []
        assert columns["obs"].shape == (8, 2, 3)
        for t in range(7):
            for b in range(2):
                number, step = divmod(int(columns["obs"][t, b, 0]), 100)
                last = step == LENGTHS[number]  # the row on which an environment would reset
                assert columns["valid"][t, b] == (not last)
                if not last:
                    seen.add((number, step))
                    assert columns["obs"][t + 1, b, 0] == 100 * number + step + 1
                    assert (columns["reward"][t, b], columns["action"][t, b]) == (step, 5 + step % 3)
                    ends = step == LENGTHS[number] - 1 and number % 2 == 0
                    assert columns["discount"][t, b] == (not ends)
    assert seen == {(number, step) for number, steps in enumerate(LENGTHS) for step in range(steps)}


def test_actors_share_the_episodes_and_more_actors_than_episodes_are_refused() -> None:
    starts = []
    for slot in range(3):
        columns, _ = Replayer(SPEC, Recorded(DATASET, 2), 1, slot, 3, seed=1).collect(
            lambda obs, memory: pytest.fail("asked")
        )
        starts.append(int(columns["obs"][0, 0, 0]) // 100)
    assert starts == [0, 1, 2]
    with pytest.raises(ConfigError, match="has 3 episodes, which is none for slot 3 of 4; use fewer --actors"):
        Replayer(SPEC, Recorded(DATASET, 2), 1, 3, 4, seed=1)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("test/nothing-v0", SPEC, "there is no Minari dataset 'test/nothing-v0' here .*shoal collect"),
        (DATASET, BOX, r"actions Discrete\(3\), Box-v0 has .* and Box\(2,\)"),
        (DATASET, EnvSpec("Other-v0", ArraySpec((4,), "float32"), SPEC.action), r"float32\[3\] .* has float32\[4\]"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_when_the_network_is_made(name: str, spec: EnvSpec, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BC(BCConfig(dataset=name)).network(spec)


# bc


@pytest.mark.parametrize("kind", ["softmax", "gaussian", "deterministic"])
def test_one_step_of_imitation_parameter_by_parameter(kind: str) -> None:
    spec = SPEC if kind == "softmax" else BOX
    settings: dict[str, Any] = {"hidden": (), "batch_size": 8, "min_size": 8, "learning_rate": 0.1}
    if kind == "deterministic":
        settings["distribution"] = "deterministic"
    config = BCConfig(dataset=DATASET, anneal_learning_rate=False, **settings)
    torch.manual_seed(0)
    network = PolicyNetwork(spec, config)
    flatten(network).data.mul_(30)
    rng = np.random.default_rng(1)
    obs = torch.from_numpy(rng.normal(size=(2, 8, 3)).astype(np.float32))
    valid = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.uint8)
    action = torch.from_numpy(rng.integers(5, 8, (1, 8)) if kind == "softmax" else rng.normal(size=(1, 8, 2)))
    params = [p.detach().double().requires_grad_() for p in network.parameters()]
    total = torch.zeros((), dtype=torch.float64)
    weight, bias = params[-2:]  # a Gaussian's deviation stands before them
    for i in range(8):
        if valid[0, i]:
            out = weight @ obs[0, i].double() + bias
            if kind == "softmax":
                total = total - torch.log_softmax(out, 0)[int(action[0, i]) - 5] / 7
            elif kind == "gaussian":
                density = torch.distributions.Normal(out, params[0].exp())
                total = total - density.log_prob(action[0, i]).sum() / 7
            else:
                total = total + (torch.tanh(out) - action[0, i]).square().sum() / 7
    gradients = torch.autograd.grad(total, params)
    data = {"obs": obs, "action": action.float() if kind != "softmax" else action, "valid": valid}
    result = imitate(config, network, BC(config).state(network), data, CONTEXT)
    assert result.metrics["loss"] == pytest.approx(float(total.detach()), rel=1e-4)
    for p, before, g in zip(network.parameters(), params, gradients, strict=True):
        wanted = before.detach() - 0.1 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(p.detach().double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_perfect_student_has_no_loss_left() -> None:
    network = PolicyNetwork(SPEC, PolicySettings(hidden=()))
    flatten(network).data.zero_()
    network.actor.params()[1].data[1] = 50.0
    wrong, _ = losses(network, torch.zeros(2, 3), torch.tensor([1, 0]))
    assert wrong.tolist() == pytest.approx([0.0, 50.0])


def test_a_table_that_never_evicts_has_room_for_the_whole_run() -> None:
    algorithm = BC(BCConfig(dataset=DATASET, unroll_length=10))
    assert isinstance(algorithm.plan().collect, Recorded)
    config = Config(algorithm="bc", env_steps=5000, actors=3, envs_per_actor=4)
    table = resolve(config, algorithm.plan()).table
    assert isinstance(table, Replay)
    assert table.capacity == 5000 + IN_FLIGHT_UNROLLS * 3 * 4 * 10
    assert not table.evict


# experts and dagger


def test_an_expert_may_be_a_function_or_the_best_checkpoint_of_a_run(tmp_path: Path) -> None:
    obs = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert load_expert(NAME, SPEC)(obs).tolist() == by_sign(obs).tolist()
    algorithm = PPO(PPOConfig(hidden=(4,)))
    network = network_of(algorithm)
    save(tmp_path, algorithm, network, {"hidden": [4]})
    wanted = network.policy(torch.from_numpy(obs)).mode().numpy() + 5
    assert load_expert(str(tmp_path), SPEC)(obs).tolist() == wanted.tolist()


def save(folder: Path, algorithm: PPO, network: Any, settings: dict[str, Any]) -> None:
    meta: dict[str, Any] = {"algorithm": "ppo", "settings": settings, "env": SPEC.id, "env_spec": SPEC.to_plain()}
    meta |= {"env_steps": 10, "eval_return": 1.0, "version": 1, "updates": 1}
    checkpoint.write(folder / "checkpoints", meta, flatten(network).data, algorithm.state(network).state_dict())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/none", "neither a run directory with a checkpoint nor package.module:function"),
        ("tests.unit.test_imitation:nobody", "cannot be imported"),
        ("tests.unit.test_imitation:DATASET", "is a str, a function of observations is needed"),
    ],
)
def test_a_missing_expert_is_refused_with_what_to_do(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Dagger(DaggerConfig(expert=name)).network(SPEC)


def test_an_expert_of_another_environment_or_with_a_memory_is_refused(tmp_path: Path) -> None:
    algorithm = PPO(PPOConfig(hidden=(4,)))
    save(tmp_path / "one", algorithm, network_of(algorithm), {"hidden": [4]})
    other = EnvSpec("Other-v0", SPEC.observation, ActionSpec("discrete", ArraySpec((), "int64"), n=9))
    with pytest.raises(ConfigError, match="take an expert of this environment"):
        load_expert(str(tmp_path / "one"), other)
    remembering = PPO(PPOConfig(hidden=(4,), recurrent=4))
    save(tmp_path / "two", remembering, network_of(remembering), {"hidden": [4], "recurrent": 4})
    with pytest.raises(ConfigError, match="has a memory"):
        load_expert(str(tmp_path / "two"), SPEC)


def dagger(**settings: Any) -> tuple[Dagger, Any]:
    algorithm = Dagger(DaggerConfig(expert=NAME, hidden=(4,), **settings))
    return algorithm, network_of(algorithm)


def test_every_visited_state_is_labelled_by_the_expert_on_the_actor() -> None:
    algorithm, network = dagger()
    unroll = {name: column.numpy() for name, column in batch().items()}
    item = algorithm.item(network, unroll, TASK)
    wanted = np.where(unroll["obs"][:-1, :, 0] > 0, 6, 5)
    assert item["action"].tolist() == wanted.tolist()
    assert item["action"].dtype == unroll["action"].dtype
    assert unroll["action"].tolist() != wanted.tolist()


@pytest.mark.parametrize(("env_steps", "share"), [(0, 1.0), (500, 0.5), (1000, 0.0)])
def test_the_expert_takes_a_share_of_the_actions_that_falls(env_steps: int, share: float) -> None:
    algorithm, network = dagger(beta_anneal_env_steps=1000)
    flatten(network).data.zero_()
    network.actor.params()[-1].data[2] = 50.0  # the student always takes 7, which the expert never does
    policy = algorithm.policy(network, TASK._replace(env_steps=env_steps))
    obs = np.random.default_rng(2).normal(size=(2000, 3)).astype(np.float32)
    actions = policy(obs, None).action
    assert (actions != 7).mean() == pytest.approx(share, abs=0.04)
    assert (actions[actions != 7] == by_sign(obs)[actions != 7]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BCConfig(), "dataset: must name a Minari dataset"),
        (lambda: DaggerConfig(), "expert: must be a run directory"),
        (lambda: BCConfig(dataset="x", recurrent=4), "recurrent: imitation learns from single rows"),
        (lambda: DaggerConfig(expert="x", shared_trunk=True), "shared_trunk: there is no value"),
    ],
)
def test_what_imitation_needs_or_cannot_use_is_told(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
