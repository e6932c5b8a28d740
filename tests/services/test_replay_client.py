"""shoal.ReplayClient against a real server: tables, writers, batches, waits, the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from shoal import ReplayClient
from tests.services.replaying import (
    CAPACITY,
    COLUMNS,
    client,
    demo,
    episode,
    memory_server,
    open_client,
    rows,
)

__all__ = ["client", "demo", "memory_server", "open_client"]


def test_what_is_inserted_comes_back_with_what_was_observed_next(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 50, envs=3))
        writer.insert(rows(50, 100, envs=3))  # longer than max_rows: it is cut
    batch = demo.sample("t")
    assert {name: column.shape for name, column in batch.columns.items()} == {
        "obs": (2, 32, 2),
        "action": (1, 32),
        "reward": (1, 32),
        "discount": (1, 32),
        "valid": (1, 32),
    }
    row, env = batch["obs"][0].T
    assert len(set(zip(row.tolist(), env.tolist(), strict=True))) > 10
    np.testing.assert_array_equal(batch["obs"][1], np.stack((row + 1, env), -1))
    np.testing.assert_array_equal(batch["action"][0], row)
    np.testing.assert_array_equal(batch["reward"][0], row / 2)
    assert batch["discount"].min() == batch["valid"].min() == 1
    assert batch.items == 450
    np.testing.assert_array_equal(batch.probability, np.full(32, 1 / 450))
    np.testing.assert_array_equal(batch.weights(0.5), np.ones(32, np.float32))
    assert len(batch) == len(batch.keys) == 32


@pytest.mark.slow
def test_sizes_and_tensors_as_asked(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 20))
    assert [len(demo.sample("t", n)) for n in (1, 5, 128)] == [1, 5, 128]
    batch = demo.sample("t", 7, to="torch")
    assert isinstance(batch["obs"], torch.Tensor)
    assert batch["obs"].shape == (2, 7, 2)
    assert isinstance(batch.weights(1.0), torch.Tensor)
    torch.testing.assert_close(batch["reward"][0], batch["obs"][0, :, 0] / 2)
    assert isinstance(demo.sample("t", 7)["obs"], np.ndarray)
    with pytest.raises(errors.ConfigError, match="batches to 'jax'"):
        demo.sample("t", to="jax")  # type: ignore[arg-type]
    with pytest.raises(errors.ReplayError, match="129 items"):
        demo.sample("t", 129)
    assert len(demo.sample("t", 8)) == 8


def test_a_seed_repeats_the_batches(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 60))
    drawn = []
    for seed, prefetch in ((3, 0), (3, 4), (4, 2)):
        with demo.batches("t", 16, seed=seed, prefetch=prefetch) as batches:
            drawn.append([next(batches).keys.tolist() for _ in range(3)])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_episodes_do_not_run_into_each_other(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        for number in range(1, 5):
            writer.insert_episode(episode(number, 10 * number))
    for _ in range(3):
        batch = demo.sample("t", 128)
        now, below = batch["obs"][..., 0]
        np.testing.assert_array_equal(below, now + 1)
        last = now % 100 == now // 100 * 10 - 1
        np.testing.assert_array_equal(batch["discount"][0] == 0, last & (now // 100 % 2 == 0))
    assert batch.items == 100


def test_windows_of_steps_and_stacks_of_frames(client: ReplayClient) -> None:
    columns = COLUMNS | {"memory": ("float32", (1,))}
    client.create_table("w", columns, capacity=CAPACITY, stack=3, n_step=4, first_row_only=["memory"])
    with client.writer("w") as writer:
        for number in (1, 2):
            steps = episode(number, 20)
            writer.insert_episode(steps | {"memory": steps["obs"][:-1, :1]})
        writer.end_episode()
    batch = client.sample("w", 64)
    assert batch["obs"].shape == (7, 64, 2)  # 2 frames before, 4 steps, what was observed after them
    assert batch["reward"].shape == (6, 64)
    now = batch["obs"][2, :, 0]
    whole = batch["valid"][:3].all(0)
    np.testing.assert_array_equal(batch["memory"][whole, 0], now[whole] - 2)
    assert set(now.tolist()) <= {float(row) for n in (1, 2) for row in range(100 * n, 100 * n + 20)}
    inside = batch["valid"][2:].cumprod(0).astype(bool)
    steps_on = (batch["reward"][2:] - batch["reward"][2]) * 2
    np.testing.assert_array_equal(steps_on[inside], np.nonzero(inside)[0])
    assert batch.items == 40
    starts = now % 100 == 0
    np.testing.assert_array_equal(batch["valid"][1, starts], 0)  # what is before an episode's first row is not its own


def test_lists_and_other_widths_are_taken_as_the_table_has_them(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        writer.insert({"obs": [[[1.0, 2.0]], [[3.0, 4.0]]], "action": [[True]], "reward": torch.ones(1, 1)})
        with pytest.raises(errors.SchemaError, match="column 'action' is float64"):
            writer.insert(rows(0, 1) | {"action": [[0.5]]})
        with pytest.raises(errors.SchemaError, match=r"missing \['reward'\]"):
            writer.insert({"obs": np.zeros((2, 1, 2)), "action": [[1]]})
        with pytest.raises(errors.SchemaError, match=r"unknown \['extra'\]"):
            writer.insert(rows(0, 1) | {"extra": np.zeros((1, 1))})
        with pytest.raises(errors.TooLargeError, match=r"takes 1 to 3 environments: .* max_envs=4"):
            writer.insert(rows(0, 1, envs=4))
        with pytest.raises(errors.SchemaError, match="'obs' has 5 rows, as many as the others: give one more"):
            writer.insert_episode(episode(1, 5) | {"obs": np.zeros((5, 2))})
        with pytest.raises(errors.SchemaError, match=r"column 'obs' is no array: .*inhomogeneous"):
            writer.insert_episode(episode(1, 1) | {"obs": [[1, 2], [3]]})
        with pytest.raises(errors.SchemaError, match=r"column 'reward' is 1\.0: give an array"):
            writer.insert_episode(episode(1, 1) | {"reward": 1.0})
        writer.flush()
    batch = demo.sample("t", 1)
    assert (batch["obs"][:, 0].tolist(), batch["action"][0, 0]) == ([[1, 2], [3, 4]], 1)


def test_whole_numbers_that_do_not_fit_are_refused(client: ReplayClient) -> None:
    client.create_table("small", {"obs": ("uint8", ())}, capacity=CAPACITY)
    with client.writer("small") as writer:
        writer.insert({"obs": [[0], [255]], "valid": [[1]]})
        with pytest.raises(errors.SchemaError, match="'obs' goes from -1 to 256, which is no uint8"):
            writer.insert({"obs": [[-1], [256]], "valid": [[1]]})
        with pytest.raises(errors.SchemaError, match=r"do not say how many rows .* the axis B is what is missing"):
            writer.insert({"obs": [[1], [2]]})


def test_a_table_that_is_there_takes_new_settings_and_says_so(client: ReplayClient) -> None:
    assert client.create_table("t", COLUMNS, capacity=CAPACITY, min_size=1) == []
    assert client.create_table("t", COLUMNS, capacity=CAPACITY, min_size=1) == []
    assert client.create_table("t", COLUMNS, capacity=CAPACITY, min_size=7) == ["min_size: 1 -> 7"]
    assert client.table("t").min_size == 7
    assert client.table("t").signature.columns["obs"].extra_rows == 1
    with pytest.raises(
        errors.TableNotFoundError, match=r"no replay table 'u', only \['t'\]: make it with create_table"
    ):
        client.table("u")
    with pytest.raises(errors.TableNotFoundError):
        client.writer("u")
    with pytest.raises(errors.TableNotFoundError):
        client.sample("u")


def test_a_table_that_is_there_says_what_it_holds(client: ReplayClient) -> None:
    made = client.create_table("t", COLUMNS, capacity=CAPACITY)
    assert (list(made), made.created, made.items) == ([], True, 0)
    with client.writer("t") as writer:
        writer.insert(rows(0, 5))
    found = client.create_table("t", COLUMNS, capacity=CAPACITY, min_size=7)
    assert (list(found), found.created, found.items) == (["min_size: 1 -> 7"], False, 5)
    assert repr(found) == "Ensured(['min_size: 1 -> 7'], created=False, items=5)"


def test_numbers_of_any_kind_are_taken_where_they_are_whole(client: ReplayClient) -> None:
    sizes = {"batch_size": np.float32(16), "max_batches": np.uint8(2), "min_size": torch.tensor(3), "max_envs": 2.0}
    others = {"stack": np.int64(2), "samples_per_insert": np.float32(0.5), "evict": np.bool_(True), "max_rows": 1e1}
    assert client.create_table("t", COLUMNS, capacity=1e4, **sizes, **others).created
    found = client.create_table("t", COLUMNS, capacity=np.int64(10_000), **sizes, **others)
    assert (list(found), found.created) == ([], False)
    table = client.table("t")
    assert (table.capacity, table.batch_size, table.max_batches, table.min_size) == (10_000, 16, 2, 3)
    assert (table.signature.max_rows, table.signature.max_envs, table.before) == (10, 2, 1)
    with client.writer("t", slot=7.0, window=np.int64(2)) as writer:  # type: ignore[arg-type]
        writer.insert(rows(0, 20))
    assert writer.slot == 7
    assert len(client.sample("t", 1e1)) == 10  # type: ignore[arg-type]
    with client.batches("t", np.int64(4), seed=np.int64(1), prefetch=1.0) as batches:  # type: ignore[arg-type]
        assert len(next(batches)) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"capacity": 1000.5}, r"^capacity is 1000.5: give a whole number from 1 to 1,099,511,627,776$"),
        ({"capacity": 1e30}, "capacity is 1e.30: give a whole number from 1 to 1,099,"),
        ({"capacity": "5000"}, "capacity is '5000': give a whole number"),
        ({"capacity": None}, "capacity is None: give a whole number"),
        ({"max_envs": float("nan")}, "max_envs is nan: give a whole number"),
        ({"max_rows": 0}, "max_rows is 0: give a whole number from 1"),
        ({"batch_size": float("inf")}, "batch_size is inf: give a whole number"),
        ({"max_batches": 0.5}, "max_batches is 0.5: give a whole number"),
        ({"min_size": [1]}, r"min_size is \[1\]: give a whole number"),
        ({"spare_rows": -1}, "spare_rows is -1: give a whole number from 0"),
        ({"n_step": 0}, "n_step is 0: give a whole number from 1"),
        ({"samples_per_insert": "8"}, "samples_per_insert is '8': give a number"),
        ({"evict": "no"}, "evict is 'no': give True or False"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(client: ReplayClient, settings: Any, words: str) -> None:
    with pytest.raises(errors.ConfigError, match=words):
        client.create_table("t", COLUMNS, **{"capacity": CAPACITY, **settings})
    assert not client.info().tables


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("U8", "column 'x' has dtype"),
        (("float32", (0,)), "column 'x' has shape"),
        (("float32", 4), r"column 'x' is .*: give \(dtype, \(n, \.\.\.\)\), a dtype or an example"),
    ],
)
def test_columns_that_no_table_can_keep_are_refused(client: ReplayClient, column: Any, words: str) -> None:
    with pytest.raises(errors.ConfigError, match=words):
        client.create_table("t", {"x": column}, capacity=CAPACITY)


def test_valid_is_one_number_a_row(client: ReplayClient) -> None:
    with pytest.raises(errors.ConfigError, match=r"column 'valid' is .* it has one number a row; leave it out"):
        client.create_table("t", COLUMNS | {"valid": ("uint8", (2,))}, capacity=CAPACITY)


def test_calls_that_ask_for_no_number_are_refused(demo: ReplayClient) -> None:
    calls: list[Callable[[], object]] = [
        lambda: demo.sample("t", -1),
        lambda: demo.sample("t", 1 << 32),
        lambda: demo.batches("t", 4, prefetch=-1),
        lambda: demo.batches("t", 4, seed=-1),
        lambda: demo.writer("t", slot=1 << 31),
        lambda: demo.writer("t", window=0),
    ]
    for call, name in zip(calls, ("batch_size",) * 2 + ("prefetch", "seed", "slot", "window"), strict=True):
        with pytest.raises(errors.ConfigError, match=f"^{name} is .*: give a whole number from"):
            call()


def test_all_that_is_wrong_with_a_table_is_said_at_once(client: ReplayClient) -> None:
    with pytest.raises(errors.ConfigError) as raised:
        client.create_table("a b", COLUMNS, capacity=0, stack=0, sampler="best", after=1, n_step=2)
    assert len(raised.value.problems) == 5
    with pytest.raises(errors.ConfigError) as raised:
        client.create_table("t", {"key": "int64", "x": "floot32"}, capacity=9, first_row_only=["y"])
    assert len(raised.value.problems) == 3
    with pytest.raises(errors.ConfigError, match="set capacity to"):
        client.create_table("t", COLUMNS, capacity=100, writers=9)


@pytest.mark.parametrize("address", ["localhost", "localhost:", "unix:", ":5555", "h:70000", "h:0"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(errors.ConfigError, match="give HOST:PORT or unix:PATH"):
        ReplayClient(address)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan"), float("inf"), None, "3"])
def test_a_client_waits_for_a_time_that_ends(timeout_s: Any) -> None:
    with pytest.raises(errors.ConfigError, match=r"timeout_s is .*: give seconds, more than 0"):
        ReplayClient("localhost:5555", timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("keys", "priorities", "words"),
    [
        ([1, 2], [1.0], "2. keys and .1. priorities"),
        ([1, 2], [1.0, float("nan")], "priority nan of key 2"),
        ([1, 2], [-1.0, 0.0], "priority -1.0 of key 1"),
        ([[1]], [[1.0]], "along one axis"),
        ([1.0], [1.0], "keys are float64"),
    ],
)
def test_priorities_that_are_none_are_refused(demo: ReplayClient, keys: Any, priorities: Any, words: str) -> None:
    with pytest.raises(errors.ReplayError, match=words):
        demo.update_priorities("t", keys, priorities)
    with demo.batches("t") as batches, pytest.raises(errors.ReplayError, match=words):
        batches.set_priorities(keys, priorities)
