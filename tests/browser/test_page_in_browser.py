"""A real run's page in headless Chromium: it loads, moves, fits, says when the run is gone, and leaks nothing.

With SHOAL_SCREENSHOTS=FOLDER the screenshots are kept there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.webdriver import Browser, browser

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
TOKEN = "a-token-of-the-tests-0"
SECRET = "hunter2-of-the-tests"
WIDE, NARROW = (1280, 800), (390, 844)


class Run:
    """A `shoal train` that goes on until it is stopped."""

    def __init__(self, folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "shoal", "train", "--algorithm", "dqn", "--env", "CartPole-v1", *flags]
        command += ["--actors", "2", "--env-steps", "100000000", "--run-dir", str(folder / "run")]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        said = (re.match(r"page (\S+)$", line) for line in self.process.stdout)
        self.page = next((found[1] for found in said if found), "")
        if not self.page:
            self.stop()
        assert self.page, "it ended before it told where its page is"

    def stop(self) -> None:
        try:
            self.process.send_signal(signal.SIGINT)
            self.process.communicate(timeout=60)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, "--target-return", "1000000", "--set", "checkpoint.every_s=3600")
    yield run
    if run.process.poll() is None:
        run.stop()


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as window:
        window.size(*WIDE)
        yield window


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SHOAL_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def env_steps(window: Browser) -> int:
    found = re.match(r"([\d,]+) of", window.text("#budget"))
    return int(found[1].replace(",", "")) if found else 0


def canvas(window: Browser) -> Any:
    """The pixels of the first chart, as text."""
    return window.run("return document.querySelector('figure canvas').toDataURL()")


def test_it_loads_moves_fits_and_says_that_the_run_is_gone(run: Run, window: Browser, screenshots: Path) -> None:
    window.open(run.page)
    window.wait("a curve", lambda: env_steps(window) > 0)
    assert window.text("#title") == "dqn on CartPole-v1"
    assert window.text("#state") == "training"
    window.wait(
        "a row for each actor", lambda: window.run("return document.querySelectorAll('#actors tr').length") == 2
    )

    steps, pixels = env_steps(window), canvas(window)
    window.wait("newer figures without a reload", lambda: env_steps(window) > steps)
    window.wait("a curve that grows", lambda: canvas(window) != pixels)
    assert "Bottleneck" in window.text("#verdict")
    titles = window.run("return [...document.querySelectorAll('#charts figcaption b')].map((b) => b.innerText)")
    assert titles[:5] == ["Return", "Env steps/s", "Staleness in versions", "Time", "Table fill"]
    assert "Loss" in window.wait("the loss", lambda: window.text("#charts") if "Loss" in window.text("#charts") else "")
    window.run("document.querySelector('#more').open = true")
    window.wait(
        "the other curves", lambda: window.run("return document.querySelectorAll('#more-charts figure').length")
    )

    grounds = set()
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        for width, height in (WIDE, NARROW):
            window.size(width, height)
            fits = "return document.documentElement.scrollWidth <= innerWidth"
            window.wait(f"a page {width} px wide", lambda: window.run(fits))  # noqa: B023
            charts = (
                "return [...document.querySelectorAll('figure')].every((f) => f.querySelector('canvas').clientWidth > 0"
            )
            charts += " && f.querySelector('canvas').getBoundingClientRect().right <= innerWidth)"
            window.wait("charts that are not cut off", lambda: window.run(charts))  # noqa: B023
            window.screenshot(screenshots / f"page-{scheme}-{width}.png")
        grounds.add(window.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    assert window.console() == []

    run.stop()
    window.wait("word of the end", lambda: window.text("#state").startswith(("not reachable", "over")))
    assert re.search("The run is over|has not answered", window.text("#banner"))
    assert env_steps(window) > steps  # what it said last stays
    window.screenshot(screenshots / "page-gone.png")


def test_code_that_did_not_come_with_the_page_is_not_run(run: Run, window: Browser) -> None:
    window.open(run.page)
    window.run("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    assert window.run("return window.ran ?? null") is None
    assert any("Content Security Policy" in line for line in window.console())


def test_it_shows_no_secret(tmp_path: Path, window: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    module = "import gymnasium\ndef make(**_): return gymnasium.make('CartPole-v1')\n"
    (tmp_path / "secretive.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    secret = f"env_kwargs={{api_key: {SECRET}, note: '{TOKEN}'}}"
    run = Run(tmp_path, "--env", "secretive:make", "--token-file", str(tmp_path / "tokens"), "--set", secret)
    try:
        window.open(run.page)
        assert window.run("return document.querySelector('#title')") is None  # it asks for a token
        window.open(run.page.replace("//", f"//anybody:{TOKEN}@"))
        window.wait("figures", lambda: env_steps(window) > 0)
        window.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        html = window.run("return document.documentElement.outerHTML")
        assert "api_key: (hidden)" in html
        assert SECRET not in html
        assert TOKEN not in html
    finally:
        run.stop()
