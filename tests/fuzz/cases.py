"""What is fuzzed, by name: every call of the services, and every decoder of what comes off a wire or a disk.

A case takes any bytes. An error of Shoal's own is an answer; any other exception is a find.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from google.protobuf.message import DecodeError

from core import checkpoint, config, wire
from core.compression import Compressor
from core.errors import ConfigError, SchemaError, ShoalError
from core.framing import unframe
from core.rpc import PROTOCOL
from core.runspec import RunSpec
from core.types import Episode, UnrollHeader
from protos import experience_pb2 as pb
from replay_server import manifest, recovery
from replay_server.definition import ReplayDefinition
from replay_server.layout import BLOCK_WORDS
from tests.fuzz import peers
from tests.fuzz.calls import DEFINITION, SIGNATURE, Target, chunk, draw, insert_calls, sample_calls, unroll
from tests.fuzz.case import Case, Decoder
from tests.fuzz.learner_calls import RUN, LearnerTarget, join, weights

FRESH_EVERY = 2000
"""A new service after so many calls, so that what one of them leaves is not blamed on the size of the tables."""
MOST_MESSAGES = 16
PATIENCE_S = 0.005


class Stream(Case):
    """A stream call of the Experience service: lengths and messages."""

    def __init__(self, name: str, calls: Sequence[list[bytes]]) -> None:
        self._name, self._calls = name, calls
        self._target, self._done = Target(), 0

    def seeds(self) -> Sequence[bytes]:
        """Streams in order."""
        return [b"".join(len(m).to_bytes(3, "little") + m for m in messages) for messages in self._calls]

    def __call__(self, data: bytes) -> None:
        messages: list[bytes] = []
        at = 0
        while at < len(data) and len(messages) < MOST_MESSAGES:
            size = int.from_bytes(data[at : at + 3], "little")
            messages.append(data[at + 3 : at + 3 + size])
            at += 3 + size
        self._target.stream(self._name, messages, PATIENCE_S)
        self._target.check()
        self._done += 1
        if self._done % FRESH_EVERY == 0:
            self._target.close()
            self._target = Target()

    def close(self) -> None:
        """End the service."""
        self._target.close()


class Unary(Case):
    """A unary call of the Experience service, on tables of its own each time: some calls remove them."""

    def __init__(self, name: str, kind: Any, *seeds: Any) -> None:
        self._name, self._kind, self._seeds = name, kind, seeds

    def seeds(self) -> Sequence[bytes]:
        """Requests in order."""
        return [seed.SerializeToString() for seed in self._seeds]

    def __call__(self, data: bytes) -> None:
        try:
            request = self._kind.FromString(data)
        except DecodeError:
            return
        target = Target()
        target.service.max_bytes = 1 << 26
        target.unary(self._name, request)
        target.unary("Info", pb.InfoRequest())
        target.close()


class LearnerCall(Case):
    """A call of the Learner service."""

    def __init__(self, name: str, *seeds: bytes) -> None:
        self._name, self._seeds = name, seeds
        self._target, self._done = LearnerTarget(), 0

    def seeds(self) -> Sequence[bytes]:
        """Requests in order."""
        return self._seeds

    def __call__(self, data: bytes) -> None:
        self._target.call(self._name, data)
        self._target.check()
        self._done += 1
        if self._done % FRESH_EVERY == 0:
            self.close()
            self._target = LearnerTarget()

    def close(self) -> None:
        """End the service."""
        self._target.close()


def _framed(data: bytes) -> None:
    for kind in (pb.InsertRequest, pb.SampleRequest, pb.SampleReply):
        with contextlib.suppress(ShoalError, DecodeError):
            unframe(kind, data)


def _columns(data: bytes) -> None:
    header = wire.read_header(data)
    wire.check_header(header, SIGNATURE)
    wire.decode(data, header)


def _unroll_header(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        wire.header_from_proto(pb.UnrollHeader.FromString(data))


def _manifest(data: bytes) -> None:
    """With a checksum that fits: only what the checksum lets through is looked at."""
    body = manifest.MAGIC + struct.pack("<Q", len(data)) + data
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body + struct.pack("<I", zlib.crc32(body)))
        found = manifest.read(Path(file.name))
    assert found.lines.shape[1] == BLOCK_WORDS


def _blocks(data: bytes) -> None:
    lines = np.frombuffer(data[: len(data) // 128 * 128], np.int64).reshape(-1, 16)
    recovery.damage(lines, 0, 400)
    recovery.committed(lines, 0)


def _checkpoint(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        meta, _, tensors = data.partition(b"\0\0\0\0")
        (Path(folder) / "meta.json").write_bytes(meta)
        (Path(folder) / "tensors.safetensors").write_bytes(tensors)
        checkpoint.read(Path(folder))


def _config(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        config.read(Path(file.name), {}, [])


def _a_header() -> bytes:
    return wire.header_to_proto(UnrollHeader(1, 2, 3, 12, (Episode(1.0, 5),))).SerializeToString()


def _a_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        meta = {"env_steps": 1, "algorithm": "ppo"}
        path = checkpoint.write(Path(folder), meta, torch.zeros(4), {"step": torch.ones(2), "n": [1, "a"]})
        return (path / "meta.json").read_bytes() + bytes(4) + (path / "tensors.safetensors").read_bytes()


def _a_manifest() -> bytes:
    packed: bytes = msgpack.packb(vars(manifest.empty(3)))
    return packed


def _table(**changes: Any) -> pb.TableDefinition:
    return pb.TableDefinition(name=DEFINITION.name, settings=DEFINITION.pack())


CASES: dict[str, Callable[[], Case]] = {
    "insert": lambda: Stream("Insert", insert_calls()),
    "sample": lambda: Stream("Sample", sample_calls()),
    "ensure_table": lambda: Unary(
        "EnsureTable", pb.EnsureTableRequest, pb.EnsureTableRequest(protocol=PROTOCOL, table=_table(), learner=3)
    ),
    "checkpoint": lambda: Unary(
        "Checkpoint", pb.CheckpointRequest, pb.CheckpointRequest(protocol=PROTOCOL, table="t", round=4)
    ),
    "rollback": lambda: Unary(
        "Rollback", pb.RollbackRequest, pb.RollbackRequest(protocol=PROTOCOL, table="t", round=4)
    ),
    "drop_table": lambda: Unary("DropTable", pb.DropTableRequest, pb.DropTableRequest(protocol=PROTOCOL, table="t")),
    "join": lambda: LearnerCall("Join", join(), join(incarnation=9, wanted_slot=3)),
    "weights": lambda: LearnerCall("Weights", weights(), weights(from_version=4, every=True), weights(slot=3)),
    "frames": lambda: Decoder(_framed, chunk(), chunk(compress=True), draw()),
    "columns": lambda: Decoder(_columns, wire.encode(unroll()), wire.encode(unroll(), Compressor())),
    "unroll_header": lambda: Decoder(_unroll_header, _a_header()),
    "run_spec": lambda: Decoder(RunSpec.unpack, RUN.pack()),
    "table_definition": lambda: Decoder(ReplayDefinition.unpack, DEFINITION.pack()),
    "manifest": lambda: Decoder(_manifest, _a_manifest()),
    "blocks": lambda: Decoder(_blocks, np.arange(64, dtype=np.int64).tobytes()),
    "checkpoint_files": lambda: Decoder(_checkpoint, _a_checkpoint()),
    "answers": lambda: Decoder(
        peers.answer, peers.an_answer(ConfigError("a", "b")), peers.an_answer(SchemaError("no"))
    ),
    "weights_received": lambda: Decoder(peers.weights, peers.some_weights()),
    "tokens_file": lambda: Decoder(
        peers.tokens, b"actor: actor-token-of-the-tests\n# a word\nanother-token-of-the-tests\n"
    ),
    "gate": lambda: Decoder(peers.gate, b"Bearer a-token-that-nobody-knows", b"Bearer ", b"Basic YTpi"),
    "http": peers.Http,
    "config_file": lambda: Decoder(_config, b"algorithm: ppo\nenv: CartPole-v1\nppo:\n  epochs: 3\n", b"algorithm: 3"),
}
