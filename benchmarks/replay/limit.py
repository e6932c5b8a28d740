"""How fast can a replay server in Python be at all? A ring of numpy and a sum tree of numba behind raw gRPC streams.

No limiter, no validation, nothing durable, no exactly once: a measure to hold the replay server against in the same
minute on the same machine, not a design. Prints one line of JSON.

    python -m benchmarks.replay.limit insert-cartpole --seconds 3
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgpack
import numpy as np
from numpy.typing import NDArray

from benchmarks.replay.measures import Figures, Usage, rates
from benchmarks.replay.shapes import KINDS, SCALARS, SIZES, STACK, Columns, Kind, nbytes
from benchmarks.replay.trees import draw, new_tree, update

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
BATCH, INSERT_WINDOW, SAMPLE_WINDOW = 256, 16, 8
EDGE = STACK + 1
"""Cells at both ends of the ring that are not sampled, so that no window needs to wrap."""


def same(message: bytes) -> bytes:
    """No serialisation: the messages are bytes."""
    return message


def encode(columns: Columns) -> bytes:
    """Name -> (dtype, shape, bytes)."""
    packed: bytes = msgpack.packb({name: (c.dtype.str, c.shape, c.data.cast("B")) for name, c in columns.items()})
    return packed


def decode(message: bytes) -> Columns:
    """Views of the message."""
    plain = msgpack.unpackb(message)
    return {name: np.frombuffer(raw, dtype).reshape(shape) for name, (dtype, shape, raw) in plain.items()}


class Ring:
    """The whole server: cells in the order of insertion, env after env, and what is drawn from them."""

    def __init__(self, kind: Kind, prioritised: bool) -> None:
        self._before, self._capacity = kind.before, kind.capacity
        self._columns: Columns = {"obs": np.ones((kind.capacity, *kind.shape), kind.dtype)}
        self._columns |= {name: np.ones(kind.capacity, dtype) for name, dtype in SCALARS.items()}
        self._tree = new_tree(kind.capacity) if prioritised else None
        self._rng, self._lock, self._at = np.random.default_rng(0), threading.Lock(), 0
        self._window = np.arange(-kind.before, 2)

    def insert(self, messages: Iterator[bytes], _context: object) -> Iterator[bytes]:
        """An unroll each; acknowledged one by one."""
        for message in messages:
            columns = decode(message)
            rows, envs = columns["reward"].shape
            count = rows * envs
            with self._lock:
                self._at = self._at if self._at + count <= self._capacity else 0
                cells = slice(self._at, self._at + count)
                for name, store in self._columns.items():
                    column = columns[name]
                    store[cells] = column.swapaxes(0, 1).reshape(count, *column.shape[2:])
                if self._tree is not None:
                    update(self._tree, np.arange(cells.start, cells.stop), np.ones(count))
                self._at += count
            yield b"1"

    def sample(self, requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        """A number of items each, in decimal."""
        for request in requests:
            with self._lock:
                drawn = encode(self._draw(int(request)))
            yield drawn

    def _draw(self, count: int) -> Columns:
        if self._tree is None:
            cells = self._rng.integers(EDGE, self._capacity - EDGE, count)
        else:
            mass = (np.arange(count) + self._rng.random(count)) * (self._tree[1] / count)
            cells = draw(self._tree, mass).clip(EDGE, self._capacity - EDGE)
        obs = self._columns["obs"]
        if self._before:
            batch = {"obs": obs[cells[:, None] + self._window]}
        else:
            batch = {"obs": obs[cells], "next_obs": obs[cells + 1]}
        batch |= {name: self._columns[name][cells] for name in SCALARS}
        probability = np.ones(count) if self._tree is None else self._tree[self._capacity + cells]
        return batch | {"key": cells, "probability": probability}

    def prioritise(self, request: bytes, _context: object) -> bytes:
        """New priorities by key."""
        columns = decode(request)
        with self._lock:
            if self._tree is not None:
                update(self._tree, columns["key"], columns["priority"].astype(np.float64))
        return b""


def echo(messages: Iterator[bytes], _context: object) -> Iterator[bytes]:
    """Acknowledge what comes, and do nothing with it."""
    for _message in messages:
        yield b"1"


def serve(kind: Kind, prioritised: bool, address: str, ready: Any) -> None:
    """The server's process."""
    ring, server = Ring(kind, prioritised), grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    stream, unary = grpc.stream_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
    handlers = {
        "insert": stream(ring.insert, same, same),
        "sample": stream(ring.sample, same, same),
        "prioritise": unary(ring.prioritise, same, same),
        "echo": stream(echo, same, same),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("limit", handlers),))
    server.add_insecure_port(address)
    server.start()
    ready.set()
    server.wait_for_termination()


class Windowed:
    """A stream of messages made on demand, at most `window` of them unanswered; how long each answer took."""

    def __init__(self, call: Any, make: Callable[[], bytes], window: int, seconds: float) -> None:
        self._call, self._make = call, make
        self._free, self._end_s = threading.Semaphore(window), time.perf_counter() + seconds
        self._sent_s: deque[float] = deque()
        self.took_s: list[float] = []

    def _requests(self) -> Iterator[bytes]:
        while time.perf_counter() < self._end_s:
            self._free.acquire()
            self._sent_s.append(time.perf_counter())
            yield self._make()

    def __iter__(self) -> Iterator[bytes]:
        for answer in self._call(self._requests()):
            self.took_s.append(time.perf_counter() - self._sent_s.popleft())
            self._free.release()
            yield answer


def measure_insert(channel: grpc.Channel, kind: Kind, pid: int, seconds: float) -> Figures:
    """Unrolls of one writer."""
    columns = kind.columns(kind.rows, kind.envs, extra_rows=0)
    stream = Windowed(
        channel.stream_stream("/limit/insert", same, same), lambda: encode(columns), INSERT_WINDOW, seconds
    )
    usage, start_s = Usage(pid), time.perf_counter()
    sent = sum(1 for _ in stream)
    took_s = time.perf_counter() - start_s
    return rates(sent * kind.rows * kind.envs, sent * nbytes(columns), took_s, stream.took_s) | usage.figures()


def measure_sample(channel: grpc.Channel, _kind: Kind, pid: int, seconds: float, prioritised: bool = False) -> Figures:
    """Batches of one learner, each with new priorities if `prioritised`."""
    prioritise = channel.unary_unary("/limit/prioritise", same, same)
    request = str(BATCH).encode()
    stream = Windowed(channel.stream_stream("/limit/sample", same, same), lambda: request, SAMPLE_WINDOW, seconds)
    usage, start_s, items, received = Usage(pid), time.perf_counter(), 0, 0
    for message in stream:
        batch = decode(message)
        items += BATCH
        received += nbytes(batch)
        if prioritised:
            priorities: NDArray[np.float32] = np.abs(batch["reward"]) + np.float32(1)
            prioritise.future(encode({"key": batch["key"], "priority": priorities}))
    return rates(items, received, time.perf_counter() - start_s, stream.took_s) | usage.figures()


def measure_prioritised(channel: grpc.Channel, kind: Kind, pid: int, seconds: float) -> Figures:
    """`measure_sample` with updates."""
    return measure_sample(channel, kind, pid, seconds, prioritised=True)


FIGURES: dict[str, tuple[str, Callable[[grpc.Channel, Kind, int, float], Figures]]] = {
    "insert-cartpole": ("cartpole", measure_insert),
    "sample-uniform": ("cartpole", measure_sample),
    "sample-prioritised": ("cartpole", measure_prioritised),
    "insert-atari": ("atari", measure_insert),
    "sample-atari": ("atari", measure_sample),
}


def main() -> int:
    """One figure, in a server and a client of its own."""
    from benchmarks.replay.echo import measure_echo

    parser = argparse.ArgumentParser("benchmarks.replay.limit", description=__doc__)
    parser.add_argument("what", choices=[*FIGURES, *SIZES])
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    kind_name, measure = FIGURES.get(options.what, ("cartpole", None))
    context, kind = multiprocessing.get_context("spawn"), KINDS[kind_name]
    with tempfile.TemporaryDirectory() as folder:
        address, ready = f"unix:{Path(folder) / 's'}", context.Event()
        server = context.Process(
            target=serve, args=(kind, options.what == "sample-prioritised", address, ready), daemon=True
        )
        server.start()
        if not ready.wait(120) or server.pid is None:
            return 1
        if measure is None:
            figures = measure_echo(address, options.what, server.pid, options.seconds)
        else:
            with grpc.insecure_channel(address, options=OPTIONS) as channel:
                grpc.channel_ready_future(channel).result(30)
                figures = measure(channel, kind, server.pid, options.seconds)
        server.kill()
        server.join()
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
