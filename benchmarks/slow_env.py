"""CartPole whose step takes its time, as a simulator's or a robot's would. It sleeps, so many of them fit on few cores.

shoal train --algorithm a3c --env benchmarks.slow_env:cartpole --set env_kwargs.step_s=0.005
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import gymnasium

START_TIMEOUT_S = 120.0
POLL_S = 0.01


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every step lasts `step_s` longer. With a folder `line` nobody steps before `crowd` of them are there.

    Whoever comes to the line later is no runner but the learner's evaluation: its steps take no time.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], step_s: float, line: str, crowd: int) -> None:
        super().__init__(env)
        self._step_s, self._line, self._crowd = step_s, line, crowd

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, later; the first from the starting line. Raises TimeoutError where too few come."""
        if self._line:
            self._wait(Path(self._line))
            self._line = ""
        time.sleep(self._step_s)
        return self.env.step(action)

    def _wait(self, line: Path) -> None:
        line.mkdir(parents=True, exist_ok=True)
        if len(list(line.iterdir())) >= self._crowd:
            self._step_s = 0.0
            return
        (line / uuid.uuid4().hex).touch()
        until_s = time.monotonic() + START_TIMEOUT_S
        while len(list(line.iterdir())) < self._crowd:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{line}: fewer than {self._crowd} environments came within {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)


def cartpole(step_s: float = 0.005, line: str = "", crowd: int = 1) -> Slow:
    """CartPole-v1 that sleeps `step_s` seconds a step."""
    return Slow(gymnasium.make("CartPole-v1"), step_s, line, crowd)
