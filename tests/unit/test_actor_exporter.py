"""What an actor process tells of itself, over a real socket."""

import http.client
from collections.abc import Iterator

import pytest

from actors.exporter import Exporter
from core.clock import FakeClock
from core.types import Episode, UnrollHeader


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter(0)
    yield exporter
    exporter.close()


def get(exporter: Exporter, path: str) -> tuple[int, str]:
    assert exporter.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_it_is_ready_while_it_has_a_seat(exporter: Exporter) -> None:
    assert get(exporter, "/readyz") == (503, "no learner has given it a seat yet\n")
    assert get(exporter, "/healthz")[0] == 200
    exporter.joined()
    assert get(exporter, "/readyz")[0] == 200
    exporter.left("another learner answers")
    assert get(exporter, "/readyz") == (503, "another learner answers\n")


def test_unrolls_add_up(exporter: Exporter) -> None:
    episode = Episode(1.0, 5)
    for version in (3, 4):
        exporter.unroll(UnrollHeader(0, 0, version, 12, (episode,), act_s=0.5, wait_weights_s=0.25, wait_acks_s=0.125))
    _, text = get(exporter, "/metrics")
    for line in (
        "shoal_process_env_steps_total 24.0",
        "shoal_process_episodes_total 2.0",
        "shoal_process_act_s_total 1.0",
        "shoal_process_wait_weights_s_total 0.5",
        "shoal_process_wait_acks_s_total 0.25",
        "shoal_process_version 4.0",
    ):
        assert line in text.splitlines()
    assert 'shoal_rss_bytes{process="actor"}' in text
    assert 'shoal_cpu_s_total{process="actor"}' in text


def test_the_kernel_is_asked_once_a_second_at_most() -> None:
    clock = FakeClock()
    exporter = Exporter(None, now_s=clock.now_s)
    asked = []
    for _ in range(40):
        exporter.unroll(UnrollHeader(0, 0, 3, 12, ()))
        asked.append(exporter._metrics.value("cpu_s", process="actor"))
        clock.advance(0.1)
    assert 4 <= len(set(asked)) <= 5


def test_without_a_port_nothing_listens() -> None:
    exporter = Exporter(None)
    assert exporter.port is None
    exporter.close()
