"""shoal.ReplayClient of tables in files, and of prioritised ones: by reference, checkpoints, priorities, Minari."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core import errors
from shoal import ReplayClient
from tests.conftest import Threads
from tests.services.replaying import (
    CAPACITY,
    COLUMNS,
    FileServer,
    OpenClient,
    client,
    episode,
    file_server,
    interrupted,
    memory_server,
    open_client,
    rows,
)
from tests.services.serving import DEADLINE_S, wait_until

__all__ = ["client", "file_server", "memory_server", "open_client"]


@pytest.fixture
def files(file_server: FileServer, open_client: OpenClient) -> ReplayClient:
    """A client that reads the server's files."""
    client = open_client()
    client.create_table("t", COLUMNS, capacity=CAPACITY, batch_size=32, max_batches=4)
    return client


def fill(client: ReplayClient, steps: int = 100, first: int = 0) -> None:
    with client.writer("t") as writer:
        writer.insert(rows(first, steps))


def test_by_reference_and_through_the_connection_are_the_same(files: ReplayClient, open_client: OpenClient) -> None:
    fill(files)
    drawn = []
    for one in (files, open_client(by_reference=False)):
        with one.batches("t", seed=3) as batches:
            drawn.append([next(batches) for _ in range(3)])
            assert batches.by_reference == (one is files)
    for near, far in zip(*drawn, strict=True):
        np.testing.assert_array_equal(near.keys, far.keys)
        np.testing.assert_array_equal(near.probability, far.probability)
        assert near.columns.keys() == far.columns.keys()
        for name, column in far.columns.items():
            np.testing.assert_array_equal(near[name], column)


def test_by_reference_while_the_ring_goes_round(files: ReplayClient) -> None:
    fill(files, 10)
    with files.batches("t", 64, prefetch=3) as batches, files.writer("t") as writer:
        assert batches.by_reference
        for first in range(0, 5 * CAPACITY, 50):
            writer.insert(rows(first, 50))
            batch = next(batches)
            now, below = batch["obs"][..., 0]
            np.testing.assert_array_equal(below, now + 1)
            np.testing.assert_array_equal(batch["action"][0], now)
    assert files.info().tables["t"].figures["items"] <= CAPACITY


def test_a_server_that_comes_back_has_everything(files: ReplayClient, file_server: FileServer) -> None:
    fill(files)
    batches = files.batches("t", seed=1)
    writer = files.writer("t")
    writer.insert(rows(0, 5))
    writer.flush()
    file_server.stop()
    writer.insert(rows(5, 5))
    file_server.start()
    writer.close()
    assert writer.lost_rows == 0
    assert next(batches).items >= 105
    assert files.info().tables["t"].figures["inserted"] == 110
    assert files.sample("t").items == 110


def test_a_checkpoint_can_be_returned_to(files: ReplayClient) -> None:
    fill(files, 100)
    assert files.checkpoint("t", round=7).items == 100
    batches, writer = files.batches("t", prefetch=2), files.writer("t")
    next(batches)
    writer.insert(rows(100, 50))
    writer.flush()
    assert files.sample("t").items == 150
    back = files.rollback("t", round=7)
    assert (back.items, back.lost_items) == (100, 0)
    for _ in range(4):
        batch = next(batches)
    assert batch.items == 100
    assert batch["obs"][0, :, 0].max() < 100
    writer.insert(rows(100, 20))
    writer.close()
    assert writer.lost_rows == 50
    assert files.sample("t").items == 120
    with pytest.raises(errors.ReplayError, match="8"):
        files.rollback("t", round=8)


def test_a_table_in_memory_says_what_it_cannot_do(client: ReplayClient) -> None:
    client.create_table("t", COLUMNS, capacity=CAPACITY)
    for call in (client.checkpoint, lambda name: client.rollback(name, 1)):
        with pytest.raises(errors.ReplayError, match="--data-dir"):
            call("t")
    with pytest.raises(errors.ReplayError, match="an export reads the table's files"):
        client.export_minari("t", "shoal/none-v0")


# ---------------------------------------------------------------------------------------------------- priorities


@pytest.fixture
def prioritised(file_server: FileServer, open_client: OpenClient) -> ReplayClient:
    client = open_client()
    columns = COLUMNS | {"priority": "float32"}
    client.create_table("p", columns, capacity=CAPACITY, batch_size=64, sampler="prioritised", priority_exponent=1.0)
    return client


def insert_prioritised(client: ReplayClient, priority: list[float] | None) -> None:
    with client.writer("p") as writer:
        columns = rows(0, 10)
        writer.insert(columns if priority is None else columns | {"priority": np.array(priority)[:, None]})


def test_first_priorities_weigh_and_are_not_handed_out(prioritised: ReplayClient) -> None:
    insert_prioritised(prioritised, [0, 0, 1, 0, 0, 3, 0, 0, 0, 0])
    batch = prioritised.sample("p")
    assert "priority" not in batch.columns
    row = batch["obs"][0, :, 0]
    assert set(row.tolist()) == {2, 5}
    np.testing.assert_allclose(batch.probability, np.where(row == 2, 0.25, 0.75))
    np.testing.assert_allclose(batch.weights(1.0), np.where(row == 2, 1, 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(batch.weights(0.0), np.ones(64))


def test_priorities_that_are_left_out_are_the_largest(prioritised: ReplayClient) -> None:
    insert_prioritised(prioritised, None)
    np.testing.assert_allclose(prioritised.sample("p").probability, np.full(64, 0.1))


def test_updates_change_the_next_draw(prioritised: ReplayClient) -> None:
    insert_prioritised(prioritised, None)
    keys = np.unique(np.concatenate([prioritised.sample("p").keys for _ in range(10)]))
    assert len(keys) == 10
    assert prioritised.update_priorities("p", keys, np.eye(10)[3]) == 0
    assert set(prioritised.sample("p").keys.tolist()) == {int(keys[3])}
    assert prioritised.update_priorities("p", [*keys[:2], 10**12], [1.0, 1.0, 5.0]) == 1
    with prioritised.batches("p", prefetch=0) as batches:
        first = next(batches)
        assert set(first.keys.tolist()) <= set(keys[[0, 1, 3]].tolist())
        batches.set_priorities(keys, np.eye(10)[7])
        assert set(next(batches).keys.tolist()) == {int(keys[7])}
        batches.set_priorities(keys[:5], np.ones(5))
        batches.set_priorities(keys, np.eye(10)[2])  # the last one is set when all is over
    assert set(prioritised.sample("p").keys.tolist()) == {int(keys[2])}


def test_an_interrupted_update_leaves_no_answer_behind(prioritised: ReplayClient) -> None:
    insert_prioritised(prioritised, None)
    with pytest.raises(KeyboardInterrupt), interrupted():
        prioritised.update_priorities("p", [10**12], [1.0])
    assert prioritised.update_priorities("p", prioritised.sample("p", 1).keys, [1.0]) == 0


def test_a_uniform_table_has_no_priorities(files: ReplayClient) -> None:
    fill(files)
    with pytest.raises(errors.SchemaError, match="prioritised"):
        files.update_priorities("t", [1], [1.0])
    assert files.sample("t").items == 100


def test_a_column_priority_needs_the_sampler(files: ReplayClient) -> None:
    with pytest.raises(errors.ConfigError, match="a column 'priority' is for sampler 'prioritised'"):
        files.create_table("u", COLUMNS | {"priority": "float32"}, capacity=CAPACITY)


def test_first_priorities_that_are_none_are_refused(prioritised: ReplayClient) -> None:
    with prioritised.writer("p") as writer:
        writer.insert(rows(0, 1))
        for number in (-1.0, float("nan")):
            with pytest.raises(errors.SchemaError, match=rf"column 'priority' has {number}; priorities are 0 or more"):
                writer.insert(rows(1, 2) | {"priority": [[1.0], [number]]})
        writer.insert(rows(1, 1) | {"priority": [[float("inf")]]})  # nothing was sent, so that it goes on
    assert prioritised.info().tables["p"].figures["items"] == 2


def test_items_leave_after_so_many_draws(prioritised: ReplayClient) -> None:
    prioritised.create_table("once", COLUMNS, capacity=CAPACITY, batch_size=10, max_times_sampled=1)
    with prioritised.writer("once") as writer:
        writer.insert(rows(0, 20))
    drawn = np.concatenate([prioritised.sample("once").keys for _ in range(2)])
    assert len(np.unique(drawn)) == 20
    with pytest.raises(errors.RateLimitedError):
        prioritised.sample("once", timeout_s=0.1)


# ---------------------------------------------------------------------------------------------------- Minari


def test_a_dataset_goes_out_and_comes_in(files: ReplayClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    with files.writer("t") as writer:
        for number in (1, 2, 3):
            writer.insert_episode(episode(number, 10 * number))
        writer.end_episode()
    exported = files.export_minari("t", "shoal/test-v0")
    assert (exported.episodes, exported.steps, exported.truncated, exported.incomplete) == (3, 60, 2, 0)
    for found, number in zip(minari.load_dataset("shoal/test-v0").iterate_episodes(), (1, 2, 3), strict=True):
        wanted = episode(number, 10 * number)
        np.testing.assert_array_equal(found.observations, wanted["obs"])
        assert bool(found.terminations[-1]) == (number == 2)
        assert bool(found.truncations[-1]) == (number != 2)
    loaded = files.load_minari("new", "shoal/test-v0", n_step=3)
    assert (loaded.episodes, loaded.steps) == (3, 60)
    batch = files.sample("new", 64)
    assert (batch.items, batch["reward"].shape, batch["obs"].shape) == (60, (3, 64), (4, 64, 2))
    with pytest.raises(errors.ConfigError, match="no Minari dataset"):
        files.load_minari("new", "shoal/other-v0")


def test_a_dropped_table_is_gone_with_its_files_and_its_name_is_free(
    file_server: FileServer, open_client: OpenClient, tmp_path: Path
) -> None:
    client = open_client(timeout_s=2.0)
    client.create_table("t", COLUMNS, capacity=CAPACITY)
    with client.writer("t") as writer:
        writer.insert(rows(0, 10))
    client.sample("t", 4)
    assert client.drop_table("t") == 10
    assert client.info().tables == {}
    assert not (tmp_path / "data" / "t").exists()
    with pytest.raises(errors.ShoalError, match="no table 't'"):
        client.sample("t", 4)
    with pytest.raises(errors.TableNotFoundError, match="no table 't'"):
        client.drop_table("t")
    assert client.create_table("t", {"obs": ("float32", (5,))}, capacity=CAPACITY).created
    file_server.stop()
    file_server.start()
    assert client.info().tables["t"].figures["items"] == 0


def test_a_memory_table_is_dropped_while_somebody_writes(client: ReplayClient, threads: Threads) -> None:
    client.create_table("t", COLUMNS, capacity=CAPACITY, samples_per_insert=1.0)
    writer = client.writer("t")

    def write_on() -> None:
        while True:
            writer.insert(rows(0, 10), timeout_s=DEADLINE_S)

    def write() -> None:
        with pytest.raises(errors.ShoalError):
            write_on()

    waiting = threads.start(write)
    wait_until(lambda: client.info().tables["t"].waiters, "the limiter closes")
    client.drop_table("t")
    client.close()
    waiting.result(DEADLINE_S)
