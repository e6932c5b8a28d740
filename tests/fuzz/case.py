"""What `make fuzz` throws bytes at."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import ShoalError


class Case(ABC):
    """Something that takes bytes; `seeds` are in order."""

    @abstractmethod
    def seeds(self) -> Sequence[bytes]:
        """Inputs to begin from."""

    @abstractmethod
    def __call__(self, data: bytes) -> None:
        """One input. Raises what no caller expects."""

    def close(self) -> None:
        """Let everything go."""
        return


class Decoder(Case):
    """A pure function of bytes."""

    def __init__(self, decode: Callable[[bytes], Any], *seeds: bytes) -> None:
        self._decode, self._seeds = decode, seeds

    def seeds(self) -> Sequence[bytes]:
        """Encoded values."""
        return self._seeds

    def __call__(self, data: bytes) -> None:
        with contextlib.suppress(ShoalError):
            self._decode(data)
