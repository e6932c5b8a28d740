"""core/addresses.py: what an address is."""

from __future__ import annotations

import pytest

from core.addresses import is_host_port, is_reachable
from shoal.cli import main


@pytest.mark.parametrize("text", ["h:1", "127.0.0.1:65535", "[::1]:7400", "unix:/a"])
def test_addresses(text: str) -> None:
    assert is_reachable(text)


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:0", "h:65536", "h:-1", "h:1x", "h:\u0661", "unix:"])
def test_no_addresses(text: str) -> None:
    assert not is_reachable(text)


def test_only_a_listener_may_have_port_0() -> None:
    assert is_host_port("h:0")
    assert not is_host_port("h:0", least_port=1)


def test_an_actor_of_no_address_says_so_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actor", "--learner", "nowhere"]) == 2
    assert "--learner nowhere: must be HOST:PORT or unix:PATH" in capsys.readouterr().err
