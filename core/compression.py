"""zstd for columns that cross a network: where it pays, and never more than was announced on the way back.

It is worth its time where a link is slower than what one core compresses (docs/performance.md has the figures), so it
is never used on unix sockets or loopback. zstandard is imported when it is first needed.
"""

from __future__ import annotations

import threading
from typing import Any

from core.errors import CodecError

LEVEL = 1
LEAST_BYTES = 4096
WORTH_RATIO = 0.8
"""A column that stays larger than this share of itself is left alone for a while."""
PAUSE = 64
_local = threading.local()


class Compressor:
    """Compresses the columns of one stream; remembers which ones do not get smaller. One thread."""

    def __init__(self) -> None:
        self._pause: dict[str, int] = {}

    def compress(self, name: str, raw: bytes | memoryview) -> bytes | None:
        """Fewer bytes; None where that is not worth it."""
        if len(raw) < LEAST_BYTES:
            return None
        if self._pause.get(name, 0) > 0:
            self._pause[name] -= 1
            return None
        small: bytes = _zstd("ZstdCompressor", level=LEVEL).compress(raw)
        if len(small) > WORTH_RATIO * len(raw):
            self._pause[name] = PAUSE
            return None
        return small


def decompress(name: str, small: bytes | memoryview, nbytes: int) -> bytes:
    """The inverse. Raises CodecError where it does not give exactly `nbytes`; allocates no more than that."""
    import zstandard

    try:
        if zstandard.get_frame_parameters(small).content_size != nbytes:
            raise CodecError(f"column {name!r} unpacks to another size than the {nbytes} bytes of its shape")
        raw: bytes = _zstd("ZstdDecompressor").decompress(small)
    except zstandard.ZstdError as error:
        raise CodecError(f"column {name!r} is no zstd frame: {error}") from error
    if len(raw) != nbytes:
        raise CodecError(f"column {name!r} unpacks to {len(raw)} bytes, its shape has {nbytes}")
    return raw


def _zstd(kind: str, **arguments: Any) -> Any:
    """This thread's (de)compressor; they are not safe to share."""
    import zstandard

    found = getattr(_local, kind, None)
    if found is None:
        found = getattr(zstandard, kind)(**arguments)
        setattr(_local, kind, found)
    return found


def crosses_network(address: str) -> bool:
    """Whether what is sent to HOST:PORT or unix:PATH leaves this machine."""
    host = address.rpartition(":")[0].strip("[]")
    return not (address.startswith("unix:") or host in ("localhost", "::1", "") or host.startswith("127."))
