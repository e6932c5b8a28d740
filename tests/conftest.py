"""What every test may use: threads that hand exceptions back, a seed that is told on failure, hypothesis' profile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "shoal",
    deadline=timedelta(seconds=2),  # far above any example; a slow machine is no failure
    max_examples=60,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shoal")

SWITCH_S = 1e-5
"""Between two threads where tests are repeated: 5 ms, as usual, would hide most orders."""
_SEED: pytest.StashKey[int] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=14, help="how often tests/e2e/test_kills.py kills the replay server")
    parser.addoption("--times", type=int, default=1, help="runs of each test, with threads switched often")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("times") > 1:
        sys.setswitchinterval(SWITCH_S)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = metafunc.config.getoption("times")
    if times > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))


@pytest.fixture
def repetition() -> int:
    """Which run of the test it is, with --times."""
    return 0


class Threads:
    """Starts threads for a test; what one of them raises is raised in the test. `join` never waits without end."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self._started: list[tuple[threading.Thread, Future[Any]]] = []

    def start(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `target` on a thread; the future has what it returns or raises."""
        future: Future[Any] = Future()

        def body() -> None:
            try:
                future.set_result(target(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=body, name=getattr(target, "__name__", "thread"), daemon=True)
        self._started.append((thread, future))
        thread.start()
        return future

    def join(self) -> list[Any]:
        """What all of them returned, in the order of starting; raises what the first of them raised."""
        started, self._started = self._started, []
        for thread, _ in started:
            thread.join(self.timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"thread {thread.name!r} did not end within {self.timeout_s} s")
        return [future.result(0) for _, future in started]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Threads of this test; joined, and their exceptions raised, when it ends."""
    threads = Threads()
    yield threads
    threads.join()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that another run may change (--randomly-seed) and that a failure tells."""
    run = int(request.config.getoption("randomly_seed", 1))
    value = int(np.random.SeedSequence([run, *request.node.nodeid.encode()]).generate_state(1)[0])
    request.node.stash[_SEED] = value
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator made of `seed`."""
    return np.random.default_rng(seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        run = item.config.getoption("randomly_seed", None)
        own = f", this test's own seed is {item.stash[_SEED]}" if _SEED in item.stash else ""
        report.sections.append(("seed", f"repeat with --randomly-seed={run}{own}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests ran on a GPU: a marker that is skipped everywhere would never be noticed."""
    ran = [r for r in terminalreporter.getreports("passed") if r.when == "call" and "gpu" in r.keywords]
    skipped = [r for r in terminalreporter.getreports("skipped") if "gpu" in r.keywords]
    terminalreporter.write_line(f"gpu tests: {len(ran)} ran, {len(skipped)} were skipped")
