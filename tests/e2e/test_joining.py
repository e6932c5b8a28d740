"""An actor that joins a run on a slow environment shows in the throughput."""

from __future__ import annotations

import re
import signal
import statistics
import time
from pathlib import Path

import pytest

from tests.e2e.envs import MODULE
from tests.e2e.runs import Train, finish, records, shoal, wait_until

MOST_S = 15.0
"""From the actor's start to half as many env steps a second again; docs/compose.md has what it took."""
RUN = ("--algorithm", "ppo", "--env", f"{MODULE}:Slow-v0", "--env-steps", "100000000", "--actors", "1")


def speeds(folder: Path) -> list[float]:
    return [record["env_steps_per_s"] for record in records(folder) if "env_steps_per_s" in record]


@pytest.mark.slow
@pytest.mark.long
def test_an_actor_more_is_half_as_fast_again(train: Train, tmp_path: Path) -> None:
    run = train(*RUN, "--set", "ppo.unroll_length=8", "ppo.epochs=1", "evaluation.every_env_steps=1000000")
    wait_until(lambda: len(speeds(tmp_path)) > 4, run, "some figures")
    alone = statistics.median(speeds(tmp_path)[1:])
    found = re.search(r"listens on (127\.0\.0\.1:\d+)", (tmp_path / "run" / "logs" / "learner.log").read_text())
    assert found is not None
    began_s = time.monotonic()
    actor = shoal(tmp_path, "actor", "--learner", found[1], log=tmp_path / "actor.log")
    try:
        wait_until(lambda: min(speeds(tmp_path)[-2:]) > 1.5 * alone, run, f"1.5 x the {alone:.0f} env steps/s of one")
        took_s = time.monotonic() - began_s
        print(f"{alone:.0f} env steps/s alone, {speeds(tmp_path)[-1]:.0f} with two, {took_s:.1f} s on")
        run.send_signal(signal.SIGTERM)
        finish(run)
        assert actor.wait(20.0) == 0
    finally:
        actor.kill()
    assert took_s < MOST_S
