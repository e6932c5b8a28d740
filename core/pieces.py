"""One item as the chunks that carry it. Pure; core/stream.py sends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from core import wire
from core.framing import ALIGNMENT_BYTES, Buffer, frame
from core.types import UnrollHeader
from protos import experience_pb2 as pb

FRAMED_BYTES = 1 << 15
"""Pieces of this size and more have a message of their own."""


class Piece(NamedTuple):
    """One chunk and its bytes; a large one is framed already, so that its columns are copied only once."""

    chunk: pb.Chunk
    payload: Buffer
    message: bytes | None = None


def cut(seq: int, header: UnrollHeader, payload: list[Buffer], size: int) -> list[Piece]:
    """An item as pieces of at most `size` bytes (and a multiple of 64, for alignment)."""
    total = sum(len(buffer) for buffer in payload)
    size = max(ALIGNMENT_BYTES, size - size % ALIGNMENT_BYTES)
    parts = max(1, -(-total // size))
    pieces = []
    for part, buffers in enumerate([payload] if parts == 1 else _split(payload, size)):
        told = wire.header_to_proto(header) if part == 0 else None
        length = min(size, total - part * size)
        chunk = pb.Chunk(seq=seq, part=part, parts=parts, header=told, payload_bytes=length)
        if length < FRAMED_BYTES:
            pieces.append(Piece(chunk, b"".join(buffers)))
        else:
            message = frame(pb.InsertRequest(chunks=[chunk]), buffers)
            pieces.append(Piece(chunk, memoryview(message)[-length:], message))
    return pieces


def _split(buffers: list[Buffer], size: int) -> Iterator[list[Buffer]]:
    """The same bytes in groups of `size`, the last one smaller; no copy."""
    group: list[Buffer] = []
    room = size
    for buffer in buffers:
        rest = memoryview(buffer)
        while rest:
            group.append(rest[:room])
            taken = len(group[-1])
            rest, room = rest[taken:], room - taken
            if room == 0:
                yield group
                group, room = [], size
    if group:
        yield group
