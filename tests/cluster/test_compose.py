"""The whole of docker-compose.yml: it learns, is scaled, loses a process of every role, and goes on."""

from __future__ import annotations

import os
import time

import pytest

import shoal
from tests.cluster.stack import Stack, image_bytes, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
START_S = 30.0
"""From `up` to the first update; the images are there (docs/compose.md has what it took)."""
MOST_ACTOR_IMAGE_BYTES = 1.5e9
RUNS = {
    "ppo": ("checkpoint.every_s=2", 150.0, ("learner", "actor")),
    "dqn": ("checkpoint.every_s=2 dqn.min_size=500", 50.0, ("learner", "replay", "actor")),
}


@pytest.mark.parametrize("algorithm", RUNS)
def test_a_stack_learns_is_scaled_and_outlives_its_processes(algorithm: str) -> None:
    settings, threshold, roles = RUNS[algorithm]
    variables = {
        "ALGORITHM": algorithm,
        "ACTORS": "2",
        "SETTINGS": f"env_steps=1000000000 faults.rejoin_grace_s=2 faults.start_timeout_s=20 {settings}",
        "PROMETHEUS_PORT": "0",
        "PAGE_PORT": "0",
    }
    with Stack(algorithm, variables) as stack:
        began_s = time.monotonic()
        stack.up(actor=2)
        wait(stack, lambda: stack.metrics().get("updates_total", 0.0) > 0, "the first update", START_S)
        print(f"{algorithm}: first update {time.monotonic() - began_s:.1f} s after `up`")
        took_s = wait(stack, lambda: stack.metrics().get("mean_return", 0.0) > threshold, f"{threshold}", 240.0)
        print(f"{algorithm}: mean return {threshold:g} after {took_s:.1f} s more")
        for wanted in (4, 1):
            stack.up(actor=wanted)
            took_s = wait(stack, lambda wanted=wanted: actors(stack) == wanted, f"{wanted} actors", 60.0)  # type: ignore[misc]
            print(f"{algorithm}: {wanted} actors after {took_s:.1f} s")
            progress(stack)
        scraped(stack)
        for role in roles:
            before = stack.restarts(role)
            stack.kill(role)
            wait(stack, lambda role=role, before=before: stack.restarts(role) > before, f"{role} again", 60.0)  # type: ignore[misc]
            wait(stack, lambda: actors(stack) == 1, "the actor to act", 90.0)
            progress(stack)
            print(f"{algorithm}: {role} was killed, and training went on")
        assert "goes on from" in stack.logs("learner") or "resum" in stack.logs("learner")
        token = stack.compose("run", "--rm", "--no-deps", "--entrypoint", "cat", "actor", "/tokens/actor/tokens")
        assert token.split()[-1] not in stack.logs()


def test_an_actors_image_is_small() -> None:
    """Every node that acts pulls it."""
    size = image_bytes(os.environ.get("ACTOR_IMAGE", f"shoal-actor:{shoal.__version__}"))
    print(f"the actor's image: {size / 1e9:.2f} GB")
    assert 0 < size < MOST_ACTOR_IMAGE_BYTES


def actors(stack: Stack) -> float:
    return stack.metrics().get("actors", 0.0)


def progress(stack: Stack) -> None:
    at = stack.metrics().get("env_steps_total", 0.0)
    wait(stack, lambda: stack.metrics().get("env_steps_total", 0.0) > at + 1000, "progress", 60.0)


def scraped(stack: Stack) -> None:
    """Prometheus has found every process by itself."""

    def found() -> bool:
        return len(stack.prometheus("up == 1")) == 3 and len(stack.prometheus("shoal_process_env_steps_total")) == 1

    wait(stack, found, "Prometheus to find learner, replay server and the one actor", 60.0)
