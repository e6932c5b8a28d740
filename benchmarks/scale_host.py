"""A learner for scale.py: its services and queue, with a thread in the trainer's place, and one that publishes."""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.scale_actors import Canned
from core import config as configuration
from core import envs as vector
from core import wire
from core.algorithms import make
from core.algorithms.signature import item_signature, zeros
from learner.bottleneck import Verdict
from learner.checkpoints import Start
from learner.main import resolve
from learner.services import TABLE, Services


class Host:
    """A learner without its training."""

    table = TABLE

    def __init__(self, actors: int, envs: int) -> None:
        plain = {"algorithm": "ppo", "env": "CartPole-v1", "actors": actors, "envs_per_actor": envs}
        config = configuration.from_plain({**plain, "policy_lag": "async"})
        algorithm = make("ppo", config.settings)
        one = vector.make(config.env, 1)
        spec = vector.spec_of(config.env, one)
        one.close()
        signature = item_signature(algorithm, algorithm.network(spec), spec, envs)
        columns = zeros(signature)
        columns["valid"][:] = 1
        self.canned = Canned(wire.encode(columns), columns["valid"].size)
        self._services = Services(
            *(config, resolve(config, algorithm.plan()), signature),
            manifest="simulated",
            incarnation=7,
            start=Start(),
            env_steps=0,
            restart_every_rounds=0,
            news=lambda: ({}, Verdict("learner", "")),
        )
        self.address = self._services.start(["127.0.0.1:0"], None)[0]
        self._fetch, self._over, self._version = self._services.fetch(), threading.Event(), -1
        self._threads = [threading.Thread(target=self._take, daemon=True)]
        self._threads[0].start()

    def _take(self) -> None:
        while not self._over.is_set() and self._fetch() is not None:
            pass

    def publish(self, params: int) -> None:
        """The next version, of so many parameters."""
        self._version += 1
        self._services.publish(self._version, 0, np.zeros(params, np.float32))

    def publish_often(self, params: int, per_s: float) -> None:
        """From now on."""

        def go_on() -> None:
            due_s = time.monotonic()
            while not self._over.wait(max(0.0, due_s - time.monotonic())):
                self.publish(params)
                due_s = max(due_s + 1 / per_s, time.monotonic())

        self._threads.append(threading.Thread(target=go_on, daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """End the services and threads."""
        self._over.set()
        self._services.close()
        for thread in self._threads:
            thread.join(5.0)
