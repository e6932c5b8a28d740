"""shoal.ReplayClient: who waits and why, broken connections, several writers, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from core import errors
from replay_server.service import ExperienceService
from shoal import ReplayClient
from tests.conftest import Threads
from tests.services.replaying import (
    CAPACITY,
    COLUMNS,
    EXPERIENCE,
    OpenClient,
    client,
    demo,
    interrupted,
    memory_server,
    open_client,
    rows,
)
from tests.services.scripted_sampling import SampleServer, sample_server
from tests.services.serving import DEADLINE_S, Serving, wait_until

__all__ = ["client", "demo", "memory_server", "open_client", "sample_server"]


def catch(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except errors.ShoalError as error:
        return error
    return None


def test_info_has_figures_and_who_waits(demo: ReplayClient, open_client: OpenClient, threads: Threads) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 10))
    demo.sample("t", 5)
    info = demo.info()
    figures = info.tables["t"].figures
    assert (figures["items"], figures["inserted"], figures["sampled"]) == (10, 10, 5)
    assert info.tables["t"].waiters == ()
    demo.create_table("t", COLUMNS, capacity=CAPACITY, batch_size=32, max_batches=4, max_envs=3)
    demo.create_table("empty", COLUMNS, capacity=CAPACITY)
    other = open_client()
    waiting = threads.start(catch, lambda: other.sample("empty"))
    wait_until(lambda: demo.info().tables["empty"].waiters, "somebody waits")
    (waiter,) = demo.info().tables["empty"].waiters
    assert "sample" in waiter.what
    assert waiter.reason
    other.close()
    assert isinstance(waiting.result(DEADLINE_S), errors.ShoalError)


@pytest.mark.slow
def test_a_wait_ends_with_the_servers_reason(demo: ReplayClient) -> None:
    with pytest.raises(errors.RateLimitedError, match=r"table 't' gave no batch for 0\.2 s: .*items"):
        demo.sample("t", timeout_s=0.2)
    with demo.batches("t", 4, timeout_s=0.05) as batches, demo.writer("t") as writer:
        with pytest.raises(errors.RateLimitedError):
            next(batches)
        writer.insert(rows(0, 10))
        batches.timeout_s = DEADLINE_S
        assert len(next(batches)) == 4
    assert len(demo.sample("t", 4)) == 4


@pytest.mark.slow
def test_an_insert_waits_for_samples(client: ReplayClient) -> None:
    client.create_table(
        "t", COLUMNS, capacity=CAPACITY, batch_size=8, max_rows=8, min_size=8, samples_per_insert=1.0, error_buffer=64.0
    )
    writer = client.writer("t", window=1)

    def insert_until_refused() -> None:
        for first in range(0, CAPACITY, 8):
            writer.insert(rows(first, 8), timeout_s=0.2)

    with pytest.raises(errors.RateLimitedError, match=r"table 't' took nothing more for 0\.2 s: .*insert"):
        insert_until_refused()
    assert writer.unacknowledged == 1
    with client.batches("t") as batches:
        for _ in range(4):
            next(batches)
        writer.close()
    assert writer.unacknowledged == writer.lost_rows == 0


def test_a_broken_connection_is_resumed(serving: Serving, memory_server: ExperienceService, demo: ReplayClient) -> None:
    writer = demo.writer("t")
    writer.insert(rows(0, 10))
    writer.flush()
    batches = demo.batches("t", 4, prefetch=2)
    next(batches)
    serving.stop()
    writer.insert(rows(10, 10))
    serving.start(EXPERIENCE, memory_server)
    for _ in range(3):
        next(batches)
    writer.close()
    assert demo.info().tables["t"].figures["inserted"] == 20
    assert demo.sample("t", 1).items == 20
    assert writer.lost_rows == 0


@pytest.mark.slow
def test_nobody_answers(open_client: OpenClient) -> None:
    client = open_client(timeout_s=0.2)
    for call in (client.info, lambda: client.create_table("t", COLUMNS, capacity=9), lambda: client.writer("t")):
        with pytest.raises(
            errors.DeadlineError, match=r"the replay server at unix:.*; is `shoal replay --listen unix:"
        ):
            call()
    with pytest.raises((errors.UnavailableError, errors.RateLimitedError)):
        client.sample("t")


def test_close_wakes_who_waits_and_ends_all(demo: ReplayClient, threads: Threads) -> None:
    demo.create_table("full", COLUMNS, capacity=CAPACITY, min_size=8, samples_per_insert=1.0, max_rows=8)
    writer, batches = demo.writer("full", window=1), demo.batches("t")

    def insert_for_ever() -> None:
        while True:
            writer.insert(rows(0, 8))

    waiting = [
        threads.start(catch, call) for call in (insert_for_ever, lambda: next(batches), lambda: demo.sample("t"))
    ]
    wait_until(lambda: len([w for t in demo.info().tables.values() for w in t.waiters]) == 3, "three wait")
    demo.close()
    assert all(isinstance(w.result(DEADLINE_S), errors.ShoalError) for w in waiting)
    for call in (
        demo.info,
        lambda: demo.sample("t"),
        lambda: demo.writer("t"),
        lambda: next(batches),
    ):
        with pytest.raises(errors.ShoalError, match="closed"):
            call()
    demo.close()


def test_close_wakes_an_export(sample_server: SampleServer, open_client: OpenClient, threads: Threads) -> None:
    client = open_client()
    exporting = threads.start(catch, lambda: client.export_minari("t", "shoal/none-v0"))
    sample_server.next()  # whose opening is never answered
    client.close()
    assert isinstance(exporting.result(DEADLINE_S), errors.TableClosedError)


def test_an_interrupted_sample_leaves_no_draw_behind(demo: ReplayClient) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 10))
    with pytest.raises(KeyboardInterrupt), interrupted():
        demo.sample("t", 3)
    assert len(demo.sample("t", 5)) == 5


def test_threads_that_sample_in_turn_share_a_stream(
    memory_server: ExperienceService, demo: ReplayClient, threads: Threads
) -> None:
    with demo.writer("t") as writer:
        writer.insert(rows(0, 10))
    wait_until(lambda: memory_server.streams == 0, "the writer is gone")
    turn, all_are_there = threading.Lock(), threading.Barrier(3)

    def sample() -> int:
        all_are_there.wait(DEADLINE_S)
        with turn:
            return len(demo.sample("t", 4))

    for _ in range(3):
        threads.start(sample)
    assert threads.join() == [4, 4, 4]
    assert memory_server.streams == 1


def test_a_wait_for_the_servers_memory_has_its_reason(
    memory_server: ExperienceService, demo: ReplayClient, threads: Threads
) -> None:
    memory_server.arriving.most_bytes = 100
    demo.create_table("full", COLUMNS, capacity=CAPACITY, min_size=1, samples_per_insert=1.0, max_rows=8)
    blocked = demo.writer("full", window=1)

    def insert_until_closed() -> None:
        while True:
            blocked.insert(rows(0, 8))

    first = threads.start(catch, insert_until_closed)
    wait_until(lambda: demo.info().tables["full"].waiters, "one waits for room")
    writer = demo.writer("full")
    writer.insert(rows(0, 8))
    with pytest.raises(errors.RateLimitedError, match="of 100 bytes hold items that came before"):
        writer.flush(timeout_s=0.2)
    demo.close()
    assert isinstance(first.result(DEADLINE_S), errors.ShoalError)


def test_slots_are_random_numbers_of_31_bits(demo: ReplayClient) -> None:
    slots = [demo.writer("t").slot for _ in range(4)]
    assert all(0 <= slot < 1 << 31 for slot in slots)
    assert len({slot >> 8 for slot in slots}) > 1  # one client's are no neighbours; all four by chance: once in 2^69


def test_writers_have_slots_of_their_own(demo: ReplayClient, open_client: OpenClient) -> None:
    first, second = demo.writer("t"), demo.writer("t")
    first.insert(rows(0, 4))
    first.flush()  # the server knows it before the third one
    third = open_client().writer("t", slot=first.slot)  # the same place: the first one is over
    for writer in (third, second):
        writer.insert(rows(0, 4))
        writer.close()
    assert first.slot != second.slot
    with pytest.raises(errors.ItemRejectedError):  # noqa: PT012 - whichever of the two is told first
        first.insert(rows(0, 4))
        first.flush()
    first.cancel()
    assert demo.info().tables["t"].figures["items"] == 12
