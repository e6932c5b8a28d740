"""core/evaluate.py: known returns, a fixed share of episodes for every environment, greedy actions clipped."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from core import envs as vector
from core.errors import EnvironmentFailedError
from core.evaluate import evaluate
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Array, Step

SPEC = EnvSpec("Known-v0", ArraySpec((1,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=2))


class KnownVector:
    """NEXT_STEP: environment b's episodes take `lengths[b]` steps of reward b + 1, and 1000 on a reset row."""

    def __init__(self, *lengths: int) -> None:
        self.num_envs, self.lengths = len(lengths), np.array(lengths)
        self.seed: int | None = None
        self.actions: list[Array] = []
        self._step, self._ended = np.zeros(len(lengths), int), np.zeros(len(lengths), bool)

    def reset(self, *, seed: int | None = None) -> tuple[Array, dict[str, Any]]:
        self.seed = seed
        return np.zeros((self.num_envs, 1)), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        self.actions.append(np.array(actions))
        reset = self._ended
        self._step = np.where(reset, 0, self._step + 1)
        self._ended = over = ~reset & (self._step == self.lengths)
        reward = np.where(reset, 1000.0, np.arange(self.num_envs) + 1.0)
        even = np.arange(self.num_envs) % 2 == 0
        return self._step[:, None].astype(float), reward, over & even, over & ~even, {}


def play(envs: KnownVector, episodes: int, spec: EnvSpec = SPEC) -> list[tuple[float, int]]:
    def policy(obs: Array, memory: Any) -> Step:
        assert obs.dtype == np.float32
        memory = np.zeros_like(obs) if memory is None else memory
        np.testing.assert_array_equal(memory, obs)  # steps since the last reset
        shape = (len(obs), *spec.action.array.shape)
        return Step(np.full(shape, 5.0 if spec.action.kind == "box" else 1), {}, memory + 1)

    return [tuple(e) for e in evaluate(policy, cast(vector.Env, envs), spec, episodes, 17)]  # type: ignore[misc]


def test_returns_and_lengths_are_known() -> None:
    envs = KnownVector(3, 2)
    assert sorted(play(envs, 4)) == [(3.0, 3), (3.0, 3), (4.0, 2), (4.0, 2)]
    assert envs.seed == 17


def test_short_episodes_are_not_favoured() -> None:
    envs = KnownVector(50, 1, 1)
    played = play(envs, 6)
    assert sorted(length for _, length in played) == [1, 1, 1, 1, 50, 50]
    assert len(envs.actions) == 101  # until the slowest has had its share, and not a step longer


def test_shares_that_do_not_come_out_even_are_fixed_beforehand() -> None:
    assert sorted(play(KnownVector(9, 1, 1), 5)) == [(2.0, 1), (2.0, 1), (3.0, 1), (9.0, 9), (9.0, 9)]


def test_more_environments_than_episodes() -> None:
    assert play(KnownVector(4, 1, 1), 1) == [(4.0, 4)]


def test_box_actions_are_clipped() -> None:
    envs = KnownVector(1)
    action = ActionSpec("box", ArraySpec((2,), "float32"), low=(-1.0, -1.0), high=(1.0, 2.0))
    play(envs, 1, EnvSpec("Known-v0", SPEC.observation, action))
    assert envs.actions[0].tolist() == [[1.0, 2.0]]


def test_a_return_that_is_not_finite_names_the_environment_and_its_seed() -> None:
    class Broken(KnownVector):
        def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
            obs, reward, terminated, truncated, info = super().step(actions)
            return obs, reward * np.nan, terminated, truncated, info

    with pytest.raises(EnvironmentFailedError, match=r"'Known-v0' gave a return of nan .* its seed was 17"):
        play(Broken(2), 1)


def test_cartpole_is_played_the_same_for_the_same_seed() -> None:
    envs = vector.make("CartPole-v1", 3)
    spec = vector.spec_of("CartPole-v1", envs)

    def policy(obs: Array, memory: Any) -> Step:
        return Step((obs[:, 2] > 0).astype(np.int64), {}, None)

    first, second, other = (evaluate(policy, envs, spec, 7, seed) for seed in (1, 1, 2))
    envs.close()
    assert len(first) == 7
    assert first == second != other
    assert all(e.total_reward == e.length for e in first)


def test_an_evaluation_can_be_cut_short() -> None:
    envs = KnownVector(1000)
    policy = lambda obs, memory: Step(np.ones(1), {})  # noqa: E731
    played = evaluate(policy, cast(vector.Env, envs), SPEC, 5, 17, lambda: len(envs.actions) >= 3)
    assert played == []
    assert len(envs.actions) == 3
