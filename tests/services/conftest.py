"""A server at a unix socket for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.serving import Serving


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Not serving yet: the test starts its own servicer."""
    serving = Serving(tmp_path)
    yield serving
    serving.close()
