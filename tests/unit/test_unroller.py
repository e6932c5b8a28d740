"""actors/unroller.py: unrolls put end to end are the environments' own rows, by an independent slow simulation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from actors.unroller import Unroller
from core import envs as vector
from core.errors import EnvironmentFailedError
from core.specs import ActionSpec, ArraySpec, EnvSpec
from core.types import Array, Columns, Episode, Episodes, Policy, Rows, Step

SPEC = EnvSpec("Count-v0", ArraySpec((2,), "float32"), ActionSpec("discrete", ArraySpec((), "int64"), n=100))
BOX = EnvSpec("Box-v0", SPEC.observation, ActionSpec("box", ArraySpec((1,), "float32"), low=(-1.0,), high=(1.0,)))


def length_of(env: int, episode: int) -> int:
    """1 to 5 steps."""
    return 1 + (3 * env + 2 * episode) % 5


def terminates(env: int, episode: int) -> bool:
    return (env + episode) % 2 == 0


class CountingVector:
    """NEXT_STEP: observes (episode, steps in all); an action's reward is itself + steps / 100, 77 on reset rows."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.seeds: list[int | None] = []
        self.actions: list[Array] = []
        self.fail_at, self.spoil = -1, ""
        self._episode, self._step, self._number = (np.zeros(num_envs, int) for _ in range(3))
        self._ended = np.zeros(num_envs, bool)
        self._buffer = np.zeros((num_envs, 2))

    def reset(self, *, seed: int | None = None) -> tuple[Array, dict[str, Any]]:
        if self.fail_at == 0:
            raise RuntimeError("no display")
        self._episode += 1 if self.seeds else 0
        self.seeds.append(seed)
        self._step[:], self._ended[:] = 0, False
        return self._obs(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        self.actions.append(np.array(actions))
        if len(self.actions) == self.fail_at and not self.spoil:
            raise RuntimeError("the simulator lost its licence")
        self._number += 1
        reset = self._ended
        self._step = np.where(reset, 0, self._step + 1)
        self._episode = self._episode + reset
        lengths = [length_of(b, int(e)) for b, e in enumerate(self._episode)]
        over = ~reset & (self._step == lengths)
        terminated = over & [terminates(b, int(e)) for b, e in enumerate(self._episode)]
        self._ended = over
        reward = np.where(reset, 77.0, np.reshape(actions, self.num_envs) + self._number / 100)
        obs = self._obs()
        if len(self.actions) == self.fail_at:
            (obs[1] if self.spoil == "obs" else reward[1:2])[-1] = np.nan
        return obs, reward, terminated, over & ~terminated, {}

    def _obs(self) -> Array:
        """The same memory again and again, as vector environments may."""
        self._buffer[:] = np.stack([self._episode, self._number], 1)
        return self._buffer


class Row(NamedTuple):
    """What one row of one environment must be."""

    obs: tuple[int, int]
    action: int
    reward: float
    discount: float
    valid: int


def action_of(obs: Any) -> int:
    return int(3 * obs[0] + obs[1]) % 100


def policy(obs: Array, memory: Any) -> Step:
    """A function of the observation; counts the rows of an episode in its memory [B, 1]."""
    memory = np.ones((len(obs), 1), np.float32) if memory is None else memory + np.float32(1)
    action = np.array([action_of(o) for o in obs])
    return Step(action, {"seen": obs[:, 1].copy(), "rows": memory[:, 0].astype(np.int64)}, memory)


def slow(env: int) -> Iterator[Row]:
    """The rows of one environment, one after the other, without any vector."""
    number = 0
    for episode in itertools.count():
        for step in range(1, length_of(env, episode) + 1):
            obs = (episode, number)
            number += 1
            over = step == length_of(env, episode)
            discount = 0.0 if over and terminates(env, episode) else 1.0
            yield Row(obs, action_of(obs), action_of(obs) + number / 100, discount, 1)
        yield Row((episode, number), action_of((episode, number)), 0.0, 1.0, 0)
        number += 1


def unroller(envs: CountingVector, collect: Rows | Episodes, spec: EnvSpec = SPEC, seed: int = 11) -> Unroller:
    return Unroller(cast(vector.Env, envs), spec, collect, seed)


def copied(columns: Columns) -> dict[str, Array]:
    """The columns hold until the next unroll only."""
    return {name: column.copy() for name, column in columns.items()}


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_unrolls_put_end_to_end_are_the_slow_simulations_rows(num_envs: int, rows: int) -> None:
    collector = unroller(CountingVector(num_envs), Rows(rows))
    unrolls = [copied(collector.collect(policy)[0]) for _ in range(42 // rows)]
    for former, latter in itertools.pairwise(unrolls):
        np.testing.assert_array_equal(former["obs"][-1], latter["obs"][0])
        after = np.where(former["valid"][-1] == 1, former["rows"][-1], 0)  # a reset row hands nothing on
        assert latter["memory"].tolist() == [[[n] for n in after]]
    assert unrolls[0]["memory"].tolist() == [[[0.0]] * num_envs]
    whole = {name: np.concatenate([u[name][:rows] for u in unrolls]) for name in unrolls[0] if name != "memory"}
    assert {name: c.shape for name, c in whole.items() if name != "obs"} == {
        name: (42, num_envs) for name in ("action", "reward", "discount", "valid", "seen", "rows")
    }
    for b in range(num_envs):
        remembered = 0
        for t, row in enumerate(itertools.islice(slow(b), 42)):
            assert whole["rows"][t, b] == remembered + 1, (t, b)
            remembered = (remembered + 1) * row.valid
            assert whole["obs"][t, b].tolist() == list(row.obs), (t, b)
            assert whole["action"][t, b] == row.action
            assert whole["reward"][t, b] == np.float32(row.reward)
            assert (whole["discount"][t, b], whole["valid"][t, b]) == (row.discount, row.valid), (t, b)
            assert whole["seen"][t, b] == row.obs[1]
    assert {whole[name].dtype.name for name in ("reward", "discount")} == {"float32"}
    assert [whole[name].dtype.name for name in ("valid", "obs", "action")] == ["uint8", "float32", "int64"]
    discounts, valid = whole["discount"], whole["valid"]
    assert (valid == 0).sum() > (discounts == 0).sum() > 0  # there were truncations, and terminations


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_episodes_are_told_once_with_returns_carried_across_unrolls(rows: int) -> None:
    num_envs = 3
    collector = unroller(CountingVector(num_envs), Rows(rows))
    told: list[Episode] = []
    for _ in range(120 // rows):
        told += collector.collect(policy)[1]
    wanted: list[tuple[int, int, Episode]] = []
    for b in range(num_envs):
        total, length = 0.0, 0
        for t, row in enumerate(itertools.islice(slow(b), 120)):
            total, length = total + float(np.float32(row.reward)), length + row.valid
            if not row.valid:
                wanted.append((t - 1, b, Episode(total, length)))
                total, length = 0.0, 0
        total_rows = 120
        following = next(itertools.islice(slow(b), total_rows, None))
        if not following.valid:
            wanted.append((total_rows - 1, b, Episode(total, length)))
    assert len(told) > 60
    for episode, (_, _, expected) in zip(told, sorted(wanted, key=lambda w: w[:2]), strict=True):
        assert episode.length == expected.length
        assert episode.total_reward == pytest.approx(expected.total_reward)


def test_whole_episodes_begin_with_a_reset_and_end_with_the_longest() -> None:
    envs = CountingVector(4)
    collector = unroller(envs, Episodes(max_rows=50, per_env=2))
    for n in range(3):
        first = envs._episode.copy() + 1
        actions_before = len(envs.actions)
        columns, episodes = collector.collect(policy)
        first_episodes = columns["obs"][0, :, 0]
        np.testing.assert_array_equal(first_episodes, first)
        lengths = np.array([[length_of(b, int(first[b]) + k) for k in range(2)] for b in range(4)])
        rows = lengths.sum(1).max() + 1  # the reset row between the two
        assert columns["valid"].shape == (rows, 4)
        assert columns["obs"].shape == (rows + 1, 4, 2)
        assert len(envs.actions) - actions_before == rows
        np.testing.assert_array_equal(columns["valid"].sum(0), lengths.sum(1))
        for b in range(4):
            one, two = lengths[b]
            assert columns["valid"][:, b].tolist() == [1] * one + [0] + [1] * two + [0] * (rows - one - two - 1)
        assert not (columns["reward"] * (1 - columns["valid"])).any()
        assert sorted(e.length for e in episodes) == sorted(lengths.ravel())
        assert sum(e.total_reward for e in episodes) == pytest.approx(float(columns["reward"].sum(dtype=np.float64)))
        assert columns["rows"][0, 0] == 1, n  # a fresh memory, which nobody needs to be told
        assert "memory" not in columns
    assert envs.seeds == [11, None, None, None]


def test_whole_episodes_are_cut_at_max_rows_and_forgotten() -> None:
    envs = CountingVector(2)
    collector = unroller(envs, Episodes(max_rows=2, per_env=3))
    for _ in range(3):
        columns, episodes = collector.collect(policy)
        assert columns["valid"].shape == (2, 2)
        ended = (columns["valid"] == 1) & [
            [length_of(b, int(columns["obs"][t, b, 0])) == t + 1 for b in (0, 1)] for t in (0, 1)
        ]
        assert len(episodes) == ended.sum()
        assert all(e.length <= 2 for e in episodes)


def test_box_actions_are_stored_unclipped_and_given_clipped() -> None:
    envs = CountingVector(2)

    def wild(obs: Array, memory: Any) -> Step:
        return Step(np.array([[-3.0], [0.5]]), {}, None)

    columns, _ = unroller(envs, Rows(2), BOX).collect(wild)
    np.testing.assert_array_equal(columns["action"][0], [[-3.0], [0.5]])
    np.testing.assert_array_equal(envs.actions[0], [[-1.0], [0.5]])


def test_the_seed_reaches_the_first_reset_only() -> None:
    envs = CountingVector(1)
    collector = unroller(envs, Rows(30), seed=987)
    collector.collect(policy)
    collector.collect(policy)
    assert envs.seeds == [987]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("", "raised RuntimeError: the simulator lost its licence in step(); its seed was 11, the last action {both}"),
        ("obs", "gave obs = nan (row 4 of the unroll, environment 1); its seed was 11, the action before it {second}"),
        (
            "reward",
            "gave reward = nan (row 3 of the unroll, environment 1); its seed was 11, the action before it {second}",
        ),
    ],
)
def test_a_broken_environment_is_named_with_field_environment_seed_and_action(spoil: str, words: str) -> None:
    envs = CountingVector(2)
    envs.fail_at, envs.spoil = 4, spoil
    both = [next(itertools.islice(slow(b), 3, None)).action for b in (0, 1)]
    assert both[0] != both[1]
    message = f"'Count-v0' {words.format(both=both, second=both[1])}"
    collector = unroller(envs, Rows(8))
    with pytest.raises(EnvironmentFailedError, match=re.escape(message)):
        collector.collect(lambda obs, memory: policy(np.nan_to_num(obs), memory))
    assert EnvironmentFailedError.exit_code == 3


def test_an_environment_that_fails_at_reset_is_named() -> None:
    envs = CountingVector(1)
    envs.fail_at = 0
    with pytest.raises(EnvironmentFailedError, match=r"raised RuntimeError: no display in reset\(\); its seed was 11"):
        unroller(envs, Rows(1))


def test_columns_are_views_that_the_next_unroll_overwrites() -> None:
    collector = unroller(CountingVector(2), Rows(3))
    first, _ = collector.collect(policy)
    kept = copied(first)
    second, _ = collector.collect(policy)
    assert np.shares_memory(first["obs"], second["obs"])
    assert not np.array_equal(kept["obs"], second["obs"])


def test_the_policy_may_be_another_one_for_every_unroll() -> None:
    collector = unroller(CountingVector(2), Rows(2))

    def constant(n: int) -> Policy:
        return lambda obs, memory: Step(np.full(len(obs), n), {}, memory)

    assert [int(collector.collect(constant(n))[0]["action"].max()) for n in (5, 3)] == [5, 3]


@pytest.mark.parametrize("collect", [Rows(7), Episodes(30, per_env=2)])
def test_after_a_restart_all_is_as_in_a_new_process(collect: Rows | Episodes) -> None:
    def unroller(seed: int) -> Unroller:
        envs = vector.make("CartPole-v1", 3)
        return Unroller(envs, vector.spec_of("CartPole-v1", envs), collect, seed)

    def policy(obs: Array, memory: Any) -> Step:
        return Step((obs[:, 2] > 0).astype(np.int64), {}, None)

    old, new = unroller(1), unroller(2)
    for _ in range(3):
        old.collect(policy)
    old.restart(2)
    for _ in range(4):
        (mine, my_episodes), (theirs, their_episodes) = old.collect(policy), new.collect(policy)
        assert my_episodes == their_episodes
        for name, column in mine.items():
            np.testing.assert_array_equal(column, theirs[name])
