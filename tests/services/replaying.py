"""A replay server in this process, clients of it, and rows that say which row they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from core.sampling import SampleStream
from core.types import Array
from protos import experience_pb2 as pb
from replay_server.data_dir import DataDir
from replay_server.service import ExperienceService
from shoal import ReplayClient
from tests.services.serving import DEADLINE_S, Serving

EXPERIENCE = pb.DESCRIPTOR.services_by_name["Experience"]
CAPACITY = 2000
COLUMNS = {"obs": ("float32", (2,)), "action": "int64", "reward": "float32"}


@pytest.fixture
def memory_server(serving: Serving) -> ExperienceService:
    """A server that keeps tables in its own memory."""
    service = ExperienceService()
    serving.start(EXPERIENCE, service)
    return service


class FileServer:
    """A server that keeps tables in files."""

    def __init__(self, serving: Serving, folder: Path) -> None:
        self._serving, self._folder = serving, folder
        self.start()

    def start(self) -> None:
        self._data_dir = DataDir(self._folder, durable=False)
        service = ExperienceService(data_dir=self._data_dir)
        service.recover()
        self._serving.start(EXPERIENCE, service)

    def stop(self) -> None:
        """Leave everything as it is, as a kill -9 does."""
        self._serving.stop()
        self._data_dir.close()


@pytest.fixture
def file_server(serving: Serving, tmp_path: Path) -> Iterator[FileServer]:
    server = FileServer(serving, tmp_path / "data")
    yield server
    server.stop()


OpenClient = Callable[..., ReplayClient]


@pytest.fixture
def open_client(serving: Serving) -> Iterator[OpenClient]:
    """Makes clients, which are closed at the end."""
    clients: list[ReplayClient] = []

    def open_one(**settings: Any) -> ReplayClient:
        clients.append(ReplayClient(serving.address, **{"timeout_s": DEADLINE_S, **settings}))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.fixture
def client(memory_server: ExperienceService, open_client: OpenClient) -> ReplayClient:
    return open_client()


@pytest.fixture
def demo(client: ReplayClient) -> ReplayClient:
    """The client, with a table "t"."""
    client.create_table("t", COLUMNS, capacity=CAPACITY, batch_size=32, max_batches=4, max_envs=3)
    return client


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Whoever waits for a reply in here is interrupted by Ctrl-C."""

    def receive(stream: SampleStream, timeout_s: float | None = None) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleStream, "receive", receive)
        yield


def rows(first: int, n: int, envs: int = 1) -> dict[str, Array]:
    """Rows `first` and those behind it: obs (row, env), action row, reward row / 2."""
    number = np.broadcast_to(np.arange(first, first + n + 1)[:, None], (n + 1, envs))
    env = np.broadcast_to(np.arange(envs), (n + 1, envs))
    obs = np.stack((number, env), -1).astype(np.float32)
    return {"obs": obs, "action": number[:-1].astype(np.int64), "reward": (number[:-1] / 2).astype(np.float32)}


def episode(number: int, steps: int) -> dict[str, Array]:
    """Episode `number`, whose step t is row 100 x number + t; the last one terminates where the number is even."""
    columns = {name: column[:, 0] for name, column in rows(100 * number, steps).items()}
    columns["discount"] = np.ones(steps, np.float32)
    columns["discount"][-1] = number % 2
    return columns
