"""What raw gRPC streams carry: messages of an unroll's size from 8 processes, acknowledged and dropped."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from benchmarks.replay.crowd import together
from benchmarks.replay.limit import OPTIONS, Windowed, same
from benchmarks.replay.measures import Figures, rates
from benchmarks.replay.shapes import KINDS, SIZES, SMALL_WINDOW, SMALL_WRITERS, nbytes


def measure_echo(address: str, what: str, pid: int, seconds: float) -> Figures:
    """Messages/s of all clients together."""
    rows, envs = SIZES[what]
    size = nbytes(KINDS["cartpole"].columns(rows, envs))
    results, usage = together([(_send, (address, size, seconds))] * SMALL_WRITERS, pid)
    sent = sum(len(waited_s) for _, waited_s in results)
    took_s = max(took_s for took_s, _ in results)
    return rates(sent, sent * size, took_s, [w for _, waited_s in results for w in waited_s]) | usage


def _send(ready: Callable[[], None], address: str, size: int, seconds: float) -> tuple[float, list[float]]:
    message = bytes(size)
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(30)
        ready()
        start_s = time.perf_counter()
        stream = Windowed(channel.stream_stream("/limit/echo", same, same), lambda: message, SMALL_WINDOW, seconds)
        for _answer in stream:
            pass
        return time.perf_counter() - start_s, stream.took_s
