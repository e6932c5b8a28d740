"""A table in a data directory, the life that writes it, and the ends that its process can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.types import Array
from replay_server.data_dir import DataDir
from replay_server.definition import ReplayDefinition
from replay_server.replay import ReplayTable
from replay_server.ring_files import BOOT
from tests.unit.counting import CountingLife, signature

T, B, CAPACITY = 4, 3, 8000
DEFINITION = ReplayDefinition("t", signature(T, B), CAPACITY, 8, 2, 20, 0.0, 1, 2, 1, sampler="prioritised")


def move_mark(table: ReplayTable) -> bool:
    """As a server does every few milliseconds; whether there was a reason."""
    wanted = table.wanted_mark()
    if wanted is not None:
        table.marked(table.folder.write_mark(wanted))
    return wanted is not None


class DyingServer:
    """A table in a data directory, one life that writes it, and the ends that a process can have."""

    def __init__(self, path: Path, *, durable: bool = True, definition: ReplayDefinition = DEFINITION) -> None:
        self.path, self.durable = path, durable
        self.data_dir = DataDir(path, durable=durable)
        self.table = ReplayTable.open(definition, data_dir=self.data_dir)
        self.rng = np.random.default_rng(0)
        self.life = CountingLife(0, 7, definition.signature.max_envs, self.rng, end=0.0)

    @property
    def folder(self) -> Path:
        return self.path / "t"

    def send(self, unrolls: int, rows: int = T) -> None:
        table, envs = self.table, self.life.envs
        expected = table.next_seq(0, self.life.incarnation)
        if expected != self.life.seq + 1:  # the table went back: the actor starts a new life
            table.end_life(0, self.life.incarnation)
            self.life = CountingLife(0, self.life.incarnation + 1, envs, self.rng, end=0.0)
        for _ in range(unrolls):
            move_mark(table)
            size = rows, envs
            while not table.may_insert(0, self.life.incarnation, *size, rows * envs):
                assert move_mark(table), "it would wait for ever"
            columns = self.life.unroll(rows)
            assert table.insert(self.life.incarnation, self.life.seq, self.life.header(columns), columns, size)

    def restart(self, *, power_cut: bool = False) -> None:
        if power_cut:
            self.table.ring.files.header[BOOT] += 1
        self.data_dir.close()
        self.data_dir = DataDir(self.path, durable=self.durable)
        self.table = ReplayTable.reopen(self.data_dir, "t")

    def items(self) -> dict[int, tuple[int, float]]:
        """Key -> its number and priority; every window is checked."""
        ring = self.table.ring
        keys: Array = np.arange(ring.tail, ring.head)
        keys = keys[ring.alive(keys)]
        numbers = ring.gather(keys)
        obs = numbers["obs"][:, :, 0]
        np.testing.assert_array_equal(obs[1:], obs[1] + np.arange(3)[:, None])
        assert ((obs[0] == obs[1] - 1) | (obs[1] % 10**6 == 0)).all()
        np.testing.assert_array_equal(numbers["reward"][1:], obs[1:3])
        assert ring.priority is not None
        found = zip(obs[1].tolist(), ring.priority[keys % ring.layout.cells].tolist(), strict=True)
        return dict(zip(keys.tolist(), found, strict=True))
