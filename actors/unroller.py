"""Turns a vector environment and a policy into unrolls. One thread; the columns are reused by the next unroll.

NEXT_STEP rows: the row on which an environment resets is not a step (`valid` 0), and the row below any row is its true
next observation. Per row there is one policy call, one `step` and four copies; everything else is done once an unroll.
"""

from __future__ import annotations

import numpy as np

from core import envs as vector
from core.atari import LIFE_LOST
from core.errors import EnvironmentFailedError
from core.specs import EnvSpec
from core.types import Array, Columns, Episode, Episodes, Policy, Rows
from core.watchdog import Busy


class Unroller:
    """Collects unrolls from one vector environment; `busy` is told while that is at work."""

    def __init__(
        self, envs: vector.Env, spec: EnvSpec, collect: Rows | Episodes, seed: int, busy: Busy | None = None
    ) -> None:
        self._envs, self._spec, self._collect = envs, spec, collect
        self._busy = busy or Busy(self._situation)
        self._busy.situation = self._situation
        self._rows = collect.rows if isinstance(collect, Rows) else collect.max_rows
        T, B = self._rows, envs.num_envs
        self._obs = np.zeros((T + 1, B, *spec.observation.shape), spec.observation.dtype)
        self._action = np.zeros((T, B, *spec.action.array.shape), spec.action.array.dtype)
        self._reward = np.zeros((T, B), np.float32)
        self._terminated = np.zeros((T, B), bool)
        self._ended = np.zeros((T, B), bool)
        self._behaviour: dict[str, Array] = {}
        self._ended_before = np.zeros(B, bool)
        self._total, self._length = np.zeros(B), np.zeros(B, np.int64)
        self._memory: Array | None = None
        self._row_at = 0
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin anew, as another process with this seed would."""
        self._seed = seed
        self._begin(seed)

    def _situation(self) -> str:
        return f"environment {self._spec.id!r} (seed {self._seed}, last action {_brief(self._action[self._row_at])})"

    def _begin(self, seed: int | None) -> None:
        self._next_obs, self._memory = self._reset(seed), None
        self._ended_before[:] = False
        self._total[:], self._length[:] = 0.0, 0

    def collect(self, policy: Policy) -> tuple[Columns, list[Episode]]:
        """One unroll and the episodes that ended in it.

        Columns: obs [T+1, B, ...], action [T, B, ...], reward and discount float32, valid uint8 [T, B], and those of
        the policy; one that remembers gets `memory` [1, B, M], its memory at the first row. They are views into this
        unroller and hold until the next call. Raises EnvironmentFailedError.
        """
        whole = isinstance(self._collect, Episodes)
        if whole:
            self._begin(None)
        self._obs[0] = self._next_obs
        remembered = self._memory
        left = np.full(self._envs.num_envs, self._collect.per_env) if isinstance(self._collect, Episodes) else None
        valid = np.zeros(self._action.shape[:2], bool)
        rows = 0
        while rows < self._rows:
            ended_before = self._ended[rows - 1] if rows else self._ended_before
            np.logical_not(ended_before, out=valid[rows])
            if left is not None:
                valid[rows] &= left > 0
            self._row(rows, policy)
            if self._memory is not None:  # what the reset row would remember is not handed on
                self._memory = self._memory * valid[rows, :, None]
            rows += 1
            if left is not None:
                left -= self._ended[rows - 1] & (left > 0)
                if not left.any():
                    break
        self._ended_before, self._next_obs = self._ended[rows - 1].copy(), self._obs[rows].copy()
        columns = self._columns(rows, valid[:rows])
        if self._memory is not None and not whole:
            columns["memory"] = np.zeros_like(self._memory)[None] if remembered is None else remembered[None]
        self._check(columns)
        return columns, self._episodes(columns, self._ended[:rows])

    def _row(self, t: int, policy: Policy) -> None:
        obs = self._obs[t]
        step = policy(obs, self._memory)
        self._action[t], self._memory = step.action, step.memory
        for name, column in step.columns.items():
            if name not in self._behaviour:
                self._behaviour[name] = np.zeros((self._rows, *column.shape), column.dtype)
            self._behaviour[name][t] = column
        try:
            self._row_at = t
            action = vector.clip_action(self._action[t], self._spec.action)
            with self._busy:
                next_obs, reward, terminated, truncated, info = self._envs.step(action)
        except Exception as error:
            raise EnvironmentFailedError(
                f"environment {self._spec.id!r} raised {type(error).__name__}: {error} in step(); its seed was "
                f"{self._seed}, the last action {_brief(self._action[t])}"
            ) from error
        self._obs[t + 1], self._reward[t], self._terminated[t] = next_obs, reward, terminated
        np.logical_or(terminated, truncated, out=self._ended[t])
        if LIFE_LOST in info:
            self._terminated[t] |= info[LIFE_LOST]

    def _columns(self, rows: int, valid: Array) -> dict[str, Array]:
        reward = self._reward[:rows]
        reward *= valid
        return {
            "obs": self._obs[: rows + 1],
            "action": self._action[:rows],
            "reward": reward,
            "discount": (~self._terminated[:rows]).astype(np.float32),
            "valid": valid.astype(np.uint8),
            **{name: column[:rows] for name, column in self._behaviour.items()},
        }

    def _check(self, columns: Columns) -> None:
        for name in ("obs", "reward"):
            column = columns[name]
            if column.dtype == np.uint8 or np.isfinite(column).all():
                continue
            where = tuple(np.argwhere(~np.isfinite(column))[0])
            t, b = where[:2]
            before = t if name == "reward" else max(0, t - 1)
            raise EnvironmentFailedError(
                f"{self._spec.id!r} gave {name} = {column[where]} (row {t} of the unroll, environment {b}); "
                f"its seed was {self._seed}, the action before it {self._action[before, b].tolist()}"
            )

    def _episodes(self, columns: Columns, ended: Array) -> list[Episode]:
        """Sums of rewards between ends, column by column, with what was left over from the unroll before."""
        total = self._total + np.cumsum(columns["reward"], 0, dtype=np.float64)
        length = self._length + np.cumsum(columns["valid"], 0, dtype=np.int64)
        self._total, self._length = total[-1].copy(), length[-1].copy()
        episodes = []
        before_total, before_length = np.zeros(ended.shape[1]), np.zeros(ended.shape[1], np.int64)
        for t, b in np.argwhere(ended & (columns["valid"] == 1)):
            episodes.append(Episode(float(total[t, b] - before_total[b]), int(length[t, b] - before_length[b])))
            before_total[b], before_length[b] = total[t, b], length[t, b]
        self._total -= before_total
        self._length -= before_length
        return episodes

    def _reset(self, seed: int | None) -> Array:
        try:
            with self._busy:
                obs, _ = self._envs.reset(seed=seed)
        except Exception as error:
            raise EnvironmentFailedError(
                f"environment {self._spec.id!r} raised {type(error).__name__}: {error} in reset(); its seed was {seed}"
            ) from error
        return np.array(obs, self._spec.observation.dtype)


def _brief(action: Array) -> str:
    """An action of B environments, shortened where it is long."""
    return np.array2string(action, threshold=16, edgeitems=3, precision=4, separator=", ").replace("\n", "")
