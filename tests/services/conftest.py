"""A server at a unix socket for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.experience import client, sampler, service, stream, table
from tests.services.scripted import open_stream, server
from tests.services.scripted_weights import learner, receive
from tests.services.serving import Serving

__all__ = ["client", "learner", "open_stream", "receive", "sampler", "server", "service", "serving", "stream", "table"]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Not serving yet: the test starts its own servicer."""
    serving = Serving(tmp_path)
    yield serving
    serving.close()
