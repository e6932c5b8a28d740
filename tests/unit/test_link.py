"""learner/link.py: the table that a plan asks for, and whether it has room for the actors."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from core.algorithms import make
from core.config import Config
from core.errors import ConfigError
from core.specs import ArraySpec, ColumnSpec, Signature
from core.types import Async, Lag, Plan, Replay, Rows
from learner.link import definition_of, why_refused
from learner.main import resolve
from replay_server.definition import ReplayDefinition
from replay_server.staging import MOST_BYTES

SIGNATURE = Signature({"valid": ColumnSpec(ArraySpec((), "uint8"))}, max_rows=16, max_envs=8)


def definition(pace: Lag | Async, writers: int = 3, **table: Any) -> ReplayDefinition:
    replay = Replay(
        **{"capacity": 10_000, "batch_size": 32, "min_size": 500, "updates_per_env_step": 0.25, "after": 3, **table}
    )
    return definition_of("experience", Plan(Rows(16), replay, pace), replay, SIGNATURE, writers)


def test_an_async_table_has_a_rate_limiter() -> None:
    made = definition(Async(), batches_per_round=7, prioritised=True, priority_exponent=0.7, max_times_sampled=9)
    assert (made.min_size, made.samples_per_insert, made.max_batches, made.staged) == (500, 8.0, 7, False)
    assert (made.sampler, made.priority_exponent, made.max_times_sampled) == ("prioritised", 0.7, 9)
    assert (made.before, made.after, made.writers, made.batch_size, made.capacity) == (0, 3, 3, 32, 10_000)
    assert definition(Async()).sampler == "uniform"


def test_with_a_fixed_lag_the_learner_counts_and_rounds_are_staged() -> None:
    made = definition(Lag(1), batches_per_round=7)
    assert (made.min_size, made.samples_per_insert, made.staged) == (1, 0.0, True)
    assert made.max_batches >= 3 * 16 * 8 * 0.25  # the updates of a round of all actors


def test_a_draw_is_never_larger_than_a_message() -> None:
    plan = Plan(Rows(16), Replay(10_000, 32, 500, 0.25, batches_per_round=7), Async())
    assert isinstance(plan.table, Replay)
    for max_message_bytes, batches in ((1 << 20, 7), (1 << 16, 7), (3000, 4), (100, 1)):  # 17 bytes an item, 32 a batch
        made = definition_of("experience", plan, plan.table, SIGNATURE, 3, max_message_bytes)
        assert made.max_batches == batches


def test_a_ring_too_small_for_its_actors_is_refused_with_the_arithmetic() -> None:
    made = definition(Async(), capacity=1500)  # 2 x 3 blocks x (3 + 16) x 8 + 500 = 1412
    assert why_refused(made, 3) is None
    assert "4 actors that send 16 rows of 8 environments" in (why_refused(made, 4) or "")
    assert "capacity to 17" in (why_refused(made, 4) or "")
    with pytest.raises(ConfigError, match="3 actors"):
        why_refused(definition(Async(), capacity=1400), 3)


@pytest.mark.parametrize("lag", [0, 1])
def test_more_than_may_be_staged_is_refused_with_the_arithmetic(lag: int) -> None:
    obs = ColumnSpec(ArraySpec((1 << 18,), "uint8"), extra_rows=1)  # 17 rows of 8 environments are 34 MiB
    signature = Signature({**SIGNATURE.columns, "obs": obs}, SIGNATURE.max_rows, SIGNATURE.max_envs)
    made = replace(definition(Lag(lag), capacity=50_000), signature=signature, max_batches=1)
    unroll = 17 * 8 * (1 << 18) + 16 * 8
    most = MOST_BYTES // ((lag + 1) * unroll)
    assert why_refused(made, most, lag) is None
    need = (most + 1) * (lag + 1) * unroll
    words = f"{most + 1} actors x {lag + 1} unrolls of {unroll:,} bytes .* are {need:,} bytes"
    assert re.search(words, why_refused(made, most + 1, lag) or "")
    assert why_refused(made, most + 1) is None  # in async pace nothing is staged


def test_a_buffer_that_would_deadlock_is_refused_with_the_arithmetic() -> None:
    made = definition(Async())  # inserts of 16 x 8 items, 8 samples each; draws of 32
    assert why_refused(replace(made, error_buffer=1024.0), 3) is None
    with pytest.raises(ConfigError, match="max_insert 128 x samples_per_insert 8 = 1024; set error_buffer to 1024"):
        why_refused(replace(made, error_buffer=1023.0), 3)
    assert why_refused(replace(definition(Lag(1)), error_buffer=1.0), 3) is None  # which has no limiter


@pytest.mark.parametrize("lag", [0, 1])
def test_replay_tables_go_at_a_fixed_lag_too(lag: Any) -> None:
    plan = make("dqn", {}).plan()
    assert resolve(Config(algorithm="dqn", policy_lag=lag), plan).pace == Lag(lag)
    assert isinstance(resolve(Config(algorithm="dqn"), plan).pace, Async)


def test_items_that_leave_and_a_fixed_lag_exclude_each_other() -> None:
    table = Replay(capacity=100, batch_size=4, min_size=10, updates_per_env_step=1, max_times_sampled=2)
    with pytest.raises(ConfigError, match="may leave nothing to draw from"):
        resolve(Config(algorithm="dqn", policy_lag=1), Plan(Rows(4), table, Async()))
