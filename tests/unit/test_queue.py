"""replay_server/queue.py: places in slot order, drops, padding, reuse; FIFO bounds and staleness; duplicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core import wire
from core.errors import ItemRejectedError, ReplayError
from core.types import Array, UnrollHeader
from replay_server.dedupe import Dedupe
from replay_server.queue import FifoQueue, QueueBatch, RoundQueue
from replay_server.reports import Reports
from tests.unit.counting import CountingLife, signature

T, B = 3, 2


def lives(n: int, rng: np.random.Generator, envs: int = B) -> list[CountingLife]:
    return [CountingLife(slot, 1, envs, rng) for slot in range(n)]


def put(
    queue: RoundQueue | FifoQueue, incarnation: int, seq: int, header: UnrollHeader, columns: dict[str, Array]
) -> bool:
    return queue.insert(incarnation, seq, header, columns, wire.check(columns, queue.signature))


def deliver(queue: RoundQueue | FifoQueue, life: CountingLife, round: int, rows: int = T) -> dict[str, Array]:
    columns = life.unroll(rows)
    assert put(queue, life.incarnation, life.seq, life.header(columns, round, round), columns)
    return columns


def side_by_side(unrolls: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([u[name] for u in unrolls], axis=1) for name in unrolls[0]}


def assert_batch(batch: QueueBatch | None, unrolls: list[dict[str, Array]], slots: list[int]) -> None:
    assert batch is not None
    assert [h.slot for h in batch.headers] == slots
    for name, wanted in side_by_side(unrolls).items():
        assert batch.columns[name].flags.c_contiguous
        np.testing.assert_array_equal(batch.columns[name], wanted)


def test_a_batch_is_in_slot_order_whatever_order_it_came_in(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=1)
    actors = lives(3, rng)
    queue.open_round(0, (2, 0, 1))
    queue.open_round(1, (0, 1, 2))
    sent = {}
    for slot in (1, 2, 0):
        assert not queue.ready(0)
        assert slot in queue.waiting(0)
        sent[slot] = deliver(queue, actors[slot], 0)
        deliver(queue, actors[slot], 1)
    assert queue.ready(0)
    assert queue.waiting(0) == ()
    assert_batch(queue.take(0), [sent[0], sent[1], sent[2]], [0, 1, 2])


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_buffers_are_lent_and_reused_lag_plus_one_rounds_later(lag: int, rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag)
    actors = lives(2, rng)
    batches = []
    for round in range(lag + 1):
        queue.open_round(round, (0, 1))
    for round in range(3 * (lag + 1)):
        sent = [deliver(queue, actor, round) for actor in actors]
        batches.append(queue.take(round))
        assert_batch(batches[-1], sent, [0, 1])
        queue.open_round(round + lag + 1, (0, 1))
    held = queue.stats().held_bytes
    assert held == (lag + 1) * signature(T, 2 * B).nbytes(T, 2 * B)
    for round, batch in enumerate(batches):
        same = [np.shares_memory(batch.columns["obs"], other.columns["obs"]) for other in batches]
        assert same == [other % (lag + 1) == round % (lag + 1) for other in range(len(batches))]


def test_a_cohort_may_grow_and_shrink(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    actors = lives(5, rng)
    for round, slots in enumerate([(0,), (0, 1, 4), (1,), (), (0, 1, 2, 3, 4)]):
        queue.open_round(round, slots)
        sent = [deliver(queue, actors[slot], round) for slot in slots]
        batch = queue.take(round)
        if slots:
            assert_batch(batch, sent, list(slots))
        else:
            assert batch.headers == ()
            assert batch.columns["obs"].shape == (T + 1, 0, 1)


@pytest.mark.parametrize("delivered_first", [False, True])
def test_a_dropped_slot_narrows_the_batch(delivered_first: bool, rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    actors = lives(3, rng)
    queue.open_round(0, (0, 1, 2))
    first = deliver(queue, actors[0], 0)
    if delivered_first:
        deliver(queue, actors[1], 0)
    third = deliver(queue, actors[2], 0)
    queue.drop(0, 1)
    assert queue.ready(0)
    assert_batch(queue.take(0), [first, third], [0, 2])
    assert queue.stats().dropped == delivered_first


def test_with_all_slots_dropped_the_round_is_empty_and_ready(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    queue.open_round(0, (0, 3))
    queue.drop(0, 0)
    queue.drop(0, 3)
    batch = queue.take(0)
    assert batch.headers == ()
    assert {name: c.shape[:2] for name, c in batch.columns.items()} == {
        "obs": (4, 0),
        "reward": (3, 0),
        "valid": (3, 0),
    }


def test_what_has_no_place_is_refused_and_does_not_count_as_known(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    (life,) = lives(1, rng)
    columns = life.unroll(T)
    with pytest.raises(ItemRejectedError, match=r"slot 0 has no place in round 0: it is not open yet, rounds \[\]"):
        put(queue, 1, 1, life.header(columns, 0), columns)
    queue.open_round(0, (0, 1))
    with pytest.raises(ItemRejectedError, match=r"slot 7 has no place in round 0: its slots are \[0, 1\]"):
        put(queue, 1, 1, UnrollHeader(7, 0, 0, 1), columns)
    queue.drop(0, 0)
    with pytest.raises(ItemRejectedError, match=r"\[0\] were dropped; join again"):
        put(queue, 1, 1, life.header(columns, 0), columns)
    queue.drop(0, 1)
    queue.take(0)
    with pytest.raises(ItemRejectedError, match="it is over"):
        put(queue, 1, 1, life.header(columns, 0), columns)
    assert queue.next_seq(0, 1) == 1
    assert queue.stats().inserted == 0


def test_known_duplicates_are_not_applied(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    (life,) = lives(1, rng)
    queue.open_round(0, (0,))
    sent = deliver(queue, life, 0)
    other = CountingLife(0, 9, B, rng).unroll(T)
    assert not put(queue, 1, 1, life.header(other, 0), other)  # the same seq again
    assert not put(queue, 9, 1, life.header(other, 0), other)  # the same place, by the slot's next life
    assert (queue.next_seq(0, 1), queue.next_seq(0, 9)) == (2, 2)
    with pytest.raises(ItemRejectedError, match=r"unroll seq 4 came, 2 is expected: 2 before it are missing"):
        put(queue, 1, 4, life.header(other, 0), other)
    assert_batch(queue.take(0), [sent], [0])
    assert not put(queue, 1, 1, life.header(other, 0), other)  # its ack was lost; the round is over
    assert queue.stats().duplicates == 3
    queue.end_life(0, 1)
    assert queue.next_seq(0, 1) == 1


def test_rounds_open_in_order_and_after_the_buffer_is_free() -> None:
    queue = RoundQueue(signature(T, B), lag=1)
    queue.open_round(0, (0,))
    queue.open_round(1, (0,))
    with pytest.raises(ReplayError, match=r"round 2 cannot open: rounds \[0, 1\] are open"):
        queue.open_round(2, (0,))
    with pytest.raises(ReplayError, match="round 1 cannot open"):
        queue.open_round(1, (0,))
    with pytest.raises(ReplayError, match="round 0 cannot be taken: its slots are"):
        queue.take(0)


@pytest.mark.parametrize("kind", ["round", "fifo"])
def test_rows_must_be_whole_and_episodes_are_padded(kind: str, rng: np.random.Generator) -> None:
    for pad in (False, True):
        queue = RoundQueue(signature(T, B), 0, pad=pad) if kind == "round" else FifoQueue(signature(T, B), 4, pad=pad)
        for round in (0, 1):  # twice: what the buffer held before must not show through
            actors = lives(2, rng)
            if isinstance(queue, RoundQueue):
                queue.open_round(round, (0, 1))
            for actor in actors:
                actor.incarnation = round
            whole = actors[1].unroll(T)
            short = actors[0].unroll(1)
            if not pad:
                with pytest.raises(ItemRejectedError, match="1 rows"):
                    put(queue, round, 1, actors[0].header(short, round), short)
                break
            put(queue, round, 1, actors[0].header(short, round), short)
            put(queue, round, 1, actors[1].header(whole, round), whole)
            padded = {n: np.concatenate([c, np.zeros((2, *c.shape[1:]), c.dtype)]) for n, c in short.items()}
            batch = queue.take(round) if isinstance(queue, RoundQueue) else queue.take(2)
            assert_batch(batch, [padded, whole], [0, 1])


def test_wrong_environments_are_refused(rng: np.random.Generator) -> None:
    queue = RoundQueue(signature(T, B), lag=0)
    queue.open_round(0, (0,))
    narrow = CountingLife(0, 1, B - 1, rng).unroll(T)
    with pytest.raises(ItemRejectedError, match="3 rows of 1 environments"):
        put(queue, 1, 1, UnrollHeader(0, 0, 0, 1), narrow)
    assert queue.waiting(0) == (0,)


def test_fifo_is_bounded_and_in_order(rng: np.random.Generator) -> None:
    queue = FifoQueue(signature(T, B), capacity=3)
    wide, thin = CountingLife(0, 1, 2, rng), CountingLife(1, 1, 1, rng)
    sent = [deliver(queue, life, 0) for life in (wide, thin, wide)]
    assert not queue.may_insert(0, 1, T, 1, 1)
    with pytest.raises(ItemRejectedError, match="holds 3 of 3 unrolls"):
        put(queue, 1, 2, UnrollHeader(1, 0, 0, 1), thin.unroll(T))
    assert queue.next_seq(1, 1) == 2
    assert queue.take(4) is None
    assert_batch(queue.take(2), sent[:2], [0, 1])
    assert queue.may_insert(0, 1, T, 1, 1)
    assert queue.stats().held_bytes == sum(c.nbytes for c in sent[2].values())
    assert_batch(queue.take(1), sent[2:], [0])
    assert not queue.may_take(1)
    stats = queue.stats()
    assert (stats.items, stats.held_bytes, stats.inserted, stats.sampled) == (0, 0, 3, 3)


def test_fifo_batches_can_be_written_to(rng: np.random.Generator) -> None:
    queue = FifoQueue(signature(T, B), capacity=1)
    columns = CountingLife(0, 1, B, rng).unroll(T)
    for column in columns.values():
        column.flags.writeable = False  # as views of a message are
    put(queue, 1, 1, UnrollHeader(0, 0, 0, 1), columns)
    batch = queue.take(1)
    assert batch is not None
    assert all(column.flags.writeable for column in batch.columns.values())


def test_fifo_drops_and_counts_what_is_too_stale(rng: np.random.Generator) -> None:
    queue = FifoQueue(signature(T, B), capacity=10)
    (life,) = lives(1, rng)
    sent = []
    for version in (0, 3, 1, 4):
        columns = life.unroll(T)
        put(queue, 1, life.seq, life.header(columns, version, version), columns)
        sent.append(columns)
    assert queue.may_take(4)
    assert queue.take(3, newest_version=5, max_staleness=2) is None  # 0 and 1 are 5 and 4 versions old
    taken = queue.take(2, newest_version=5, max_staleness=2)
    assert_batch(taken, [sent[1], sent[3]], [0, 0])
    assert taken is not None
    assert [header.version for header in taken.dropped] == [0, 1]  # told once, with the next batch
    assert queue.stats().dropped == 2
    assert queue.stats().held_bytes == 0
    assert not put(queue, 1, 1, UnrollHeader(0, 0, 0, 1), sent[0])


def test_dedupe_is_bounded_and_forgets_the_idle() -> None:
    dedupe = Dedupe(max_lives=2)
    assert dedupe.record(0, 10, 1) is None
    assert dedupe.record(1, 11, 1) is None
    assert dedupe.record(0, 10, 2) is None
    assert dedupe.record(2, 12, 1) == (1, 11)
    assert len(dedupe) == 2
    assert [dedupe.next_seq(s, 10 + s) for s in (0, 1, 2)] == [3, 1, 2]


def test_headers_are_bounded_and_env_steps_are_never_lost(rng: np.random.Generator) -> None:
    reports = Reports(limit=3)
    (life,) = lives(1, rng)
    total = 0
    for _ in range(10):
        columns = life.unroll(T)
        header = replace(life.header(columns), act_s=0.5)
        total += header.env_steps
        reports.add(header)
    headers = reports.drain()
    assert [h.slot for h in headers] == [-1, 0, 0, 0]
    assert sum(h.env_steps for h in headers) == total > 0
    assert headers[0].act_s == 3.5
    assert reports.drain() == []
