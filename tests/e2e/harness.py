"""The learner without its training: real services, sockets and actors, and a test in the trainer's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from core import config as configuration
from core import envs as vector
from core.algorithms import make
from core.algorithms.signature import item_signature
from core.rl.optim import flatten
from core.types import Array, UnrollHeader
from learner.bottleneck import Verdict
from learner.checkpoints import Start
from learner.main import resolve
from learner.services import Services
from learner.source import Source
from shoal.processes import HOME

DEADLINE_S = 60.0


class TestLearner:
    """Publishes version after version, each with params of its own, and takes the batches."""

    __test__ = False

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = configuration.from_plain({"algorithm": "ppo", **settings})
        algorithm = make("ppo", self.config.settings)
        plan = resolve(self.config, algorithm.plan())
        envs = vector.make(self.config.env, 1)
        self.spec = vector.spec_of(self.config.env, envs)
        torch.manual_seed(0)
        self.network: Any = algorithm.network(self.spec)
        self.flat = flatten(self.network)
        signature = item_signature(algorithm, self.network, self.spec, self.config.envs_per_actor)
        self.services = Services(
            self.config,
            plan,
            signature,
            manifest=self.flat.manifest(),
            incarnation=7,
            start=Start(),
            env_steps=0,
            restart_every_rounds=0,
            news=lambda: ({}, Verdict("learner", "")),
        )
        self.address = self.services.start([f"unix:{folder / 's'}"], None)[0]
        self.source = Source(self.services.fetch(), torch.device("cpu"))
        self.params: dict[int, Array] = {}
        self.version = -1
        self.env_steps = 0
        self._actors: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TestLearner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.services.finish("the test is over")
        self.services.close()
        self.source.close()
        for actor in self._actors:
            actor.kill()
            actor.communicate()

    def start_actor(self) -> subprocess.Popen[bytes]:
        """One more actor process."""
        with (self.folder / f"actor-{len(self._actors)}.log").open("wb") as log:
            actor = subprocess.Popen(
                [sys.executable, "-m", "shoal", "actor", "--learner", self.address, "--supervised"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(HOME)},
            )
        self._actors.append(actor)
        return actor

    def logs(self) -> str:
        """What the actors said, for a failing test."""
        return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(self.folder.glob("actor-*.log")))

    def publish(self) -> None:
        """The next version: the former one, changed a little."""
        self.version += 1
        self.flat.params += 0.01 * torch.randn(len(self.flat.params))
        self.params[self.version] = self.flat.snapshot()
        self.services.publish(self.version, self.env_steps, self.params[self.version])

    def take(self) -> tuple[dict[str, Array], tuple[UnrollHeader, ...]]:
        """The next batch, copied (its memory is lent), and its headers."""
        delivery = self.source.next(DEADLINE_S)
        assert delivery is not None, f"no batch of round {self.version} within {DEADLINE_S} s\n{self.logs()}"
        self.env_steps += sum(h.env_steps for h in delivery.headers)
        batch = delivery.batch or {}
        return {name: column.numpy().copy() for name, column in batch.items()}, tuple(delivery.headers)
