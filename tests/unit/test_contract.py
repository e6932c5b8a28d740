"""What every algorithm must keep: an algorithm is tested by being registered."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from core.algorithms import REGISTRY, make
from core.algorithms.contract import Algorithm
from core.algorithms.signature import item_signature, unroll_signature
from core.errors import ConfigError
from core.fields import plain
from core.rl.optim import flatten
from core.specs import ActionSpec, ArraySpec, EnvSpec, Signature
from core.types import Array, Context, Episodes, Plan, Replay, Result, Task
from tests.unit.recording import write_dataset

SPEC = EnvSpec("Test-v0", ArraySpec((5,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=3, start=1))
ENVS = 4
TASK = Task(seed=1, slot=0, slots=2, round=3)
DATASET = "test/contract-v0"
NEEDED = {"bc": {"dataset": DATASET}, "dagger": {"expert": "tests.unit.test_contract:second_action"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "dagger": {"hidden": [16], "beta_start": 0.0},
    "finite_difference": {"hidden": [], "directions": "random", "step": 1.0},
}


def second_action(obs: Array) -> Array:
    return np.full(len(obs), 2)


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Minari dataset of the environment, for what learns from one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        write_dataset(DATASET, SPEC, [7, 3])
        yield


@pytest.fixture(params=sorted(REGISTRY))
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return make(request.param, {**NEEDED.get(request.param, {}), **SETTINGS.get(request.param, {"hidden": [16]})})


def new_network(algorithm: Algorithm, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = algorithm.network(SPEC)
    flatten(network)
    return network


def batch_of(algorithm: Algorithm, network: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random columns as the algorithm's table would hand them out: a replay table's windows, or an actor's item."""
    rng = np.random.default_rng(seed)
    table, collect = algorithm.plan().table, algorithm.plan().collect
    if isinstance(table, Replay):
        signature = item_signature(algorithm, network, SPEC, ENVS)
        return random_columns(signature, table.before + table.after, table.batch_size * table.batches_per_round, rng)
    step = algorithm.policy(network, TASK)(np.zeros((ENVS, 5), np.float32), None)
    behaviour = {name: ArraySpec(column.shape[1:], column.dtype.name) for name, column in step.columns.items()}
    rows = min(collect.max_rows if isinstance(collect, Episodes) else collect.rows, 32)
    signature = unroll_signature(SPEC, behaviour, rows, ENVS)
    unroll = {name: column.numpy() for name, column in random_columns(signature, rows, ENVS, rng).items()}
    item = algorithm.item(network, unroll, TASK._replace(round=seed))
    return {name: torch.from_numpy(np.array(column)) for name, column in item.items()}


def random_columns(signature: Signature, rows: int, envs: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = {}
    for name, column in signature.columns.items():
        shape = (rows + column.extra_rows, envs, *column.array.shape)
        values: Any = rng.integers(1, 4, shape) if name == "action" else rng.normal(size=shape)
        if name in ("valid", "discount"):
            values = rng.random(shape) < 0.9
        batch[name] = torch.from_numpy(np.asarray(values, column.array.dtype))
    return batch


def update(algorithm: Algorithm, network: Any, state: Any, round: int = 0) -> Result:
    context = Context(np.random.default_rng(round), round, env_steps=10 * round, budget_env_steps=1000)
    return algorithm.update(network, state, batch_of(algorithm, network, round), context)


def test_the_plan_is_data_that_never_changes(algorithm: Algorithm) -> None:
    assert isinstance(algorithm.plan(), Plan)
    assert algorithm.plan() == algorithm.plan()


def test_the_same_seed_makes_the_same_network_and_the_same_manifest(algorithm: Algorithm) -> None:
    one, two = flatten(new_network(algorithm)), flatten(new_network(algorithm))
    assert (one.snapshot() == two.snapshot()).all()
    assert one.manifest() == two.manifest()


def test_acting_fits_the_signature_and_leaves_the_network_alone(algorithm: Algorithm) -> None:
    network = new_network(algorithm)
    before = flatten(network).snapshot()
    columns = item_signature(algorithm, network, SPEC, ENVS).columns
    obs = np.random.default_rng(0).normal(size=(ENVS, 5)).astype(np.float32)
    kept = obs.copy()
    for explore in (True, False):
        policy = algorithm.policy(network, TASK._replace(explore=explore))
        for _ in range(3):
            step = policy(obs, None)
            assert step.action.shape == (ENVS,)
            assert step.action.dtype == SPEC.action.array.dtype
            assert set(step.action.tolist()) <= {1, 2, 3}
            for name, column in step.columns.items():
                assert column.shape == (ENVS, *columns[name].array.shape)
                assert column.dtype == columns[name].array.dtype
    assert (obs == kept).all()
    assert (flatten(network).snapshot() == before).all()


def test_a_task_fixes_an_unrolls_actions_whatever_torchs_global_state(algorithm: Algorithm) -> None:
    network = new_network(algorithm)
    obs = np.zeros((64, 5), np.float32)
    actions = []
    for task in (TASK, TASK, TASK._replace(round=4)):
        torch.rand(3)
        policy = algorithm.policy(network, task)
        actions.append(np.stack([policy(obs, None).action for _ in range(20)]))
    assert (actions[0] == actions[1]).all()
    assert (actions[0] != actions[2]).any()


def test_an_update_changes_the_parameters_in_place_and_reports_finite_metrics(algorithm: Algorithm) -> None:
    network = new_network(algorithm)
    flat = flatten(network)
    before, manifest = flat.snapshot(), flat.manifest()
    result = update(algorithm, network, algorithm.state(network))
    assert result.updates >= 1
    assert "loss" in result.metrics
    assert all(isinstance(v, float) and math.isfinite(v) for v in result.metrics.values())
    assert (flat.snapshot() != before).any()
    assert flatten(network) is flat
    assert flat.manifest() == manifest


def test_the_same_batches_give_the_same_bits(algorithm: Algorithm) -> None:
    bits = []
    for _ in range(2):
        network = new_network(algorithm)
        state = algorithm.state(network)
        for round in range(3):
            torch.rand(3)  # nothing may come from torch's global generator
            update(algorithm, network, state, round)
        bits.append(flatten(network).snapshot().tobytes())
    assert bits[0] == bits[1]


def is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, torch.Tensor | bool | int | float | str)


def test_a_resumed_state_goes_on_as_the_uninterrupted_one(algorithm: Algorithm) -> None:
    network = new_network(algorithm)
    state = algorithm.state(network)
    update(algorithm, network, state, 0)
    saved, weights = state.state_dict(), flatten(network).snapshot()
    assert is_plain(saved)
    update(algorithm, network, state, 1)
    resumed = new_network(algorithm, seed=9)
    flatten(resumed).load(weights)
    resumed_state = algorithm.state(resumed)
    resumed_state.load_state_dict(saved)
    update(algorithm, resumed, resumed_state, 1)
    assert (flatten(resumed).snapshot() == flatten(network).snapshot()).all()
    with pytest.raises((KeyError, ValueError)):
        resumed_state.load_state_dict({})


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_settings_survive_the_way_through_plain_values(name: str) -> None:
    settings = plain(REGISTRY[name].Config(**NEEDED.get(name, {})))
    algorithm: Any = make(name, settings)
    assert plain(algorithm.config) == settings


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_all_problems_of_the_settings_are_told_at_once(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make(name, {**NEEDED.get(name, {}), "learning_rat": 1, "gamma": 2, "unroll_length": "long"})
    assert len(refused.value.problems) == 3
    assert f"did you mean '{name}.learning_rate'?" in str(refused.value)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no algorithm 'pppo'; did you mean 'ppo'\?"):
        make("pppo", {})
