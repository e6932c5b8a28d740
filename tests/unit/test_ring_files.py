"""replay_server/ring.py and its files: what is stored, what a restart makes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay_server import ring_files as words
from replay_server.layout import RingLayout
from replay_server.ring import Ring
from replay_server.storage import FileAllocator
from tests.unit.counting import CountingLife, signature
from tests.unit.ring_twin import MAX_ENVS, MAX_ROWS, OPS, Twin, many_ops, run


def test_files_hold_what_a_restart_needs(tmp_path: Path, rng: np.random.Generator) -> None:
    spec, layout = signature(MAX_ROWS, MAX_ENVS), RingLayout(300, 1, 2, block_rows=8, open_blocks=3)
    ring = Ring(spec, layout, FileAllocator(tmp_path))
    twin = run(ring, [1, 2, 3], many_ops(rng, 100), rng)
    header, blocks = np.fromfile(tmp_path / "header", np.int64), np.fromfile(tmp_path / "blocks", np.int64)
    assert header[:6].tolist() == [ring.tail, 3, 300, 1, 2, ring.files.epoch]
    lines = blocks.reshape(-1, 16)
    lines = lines[(lines[:, words.COMMIT] != 0) & (lines[:, words.START] >= ring.tail)]
    assert sorted(lines[:, words.START]) == [block.start for block in ring._order]
    obs = np.fromfile(tmp_path / "column.obs", np.int64)
    for block in ring._order:
        (line,) = lines[lines[:, words.START] == block.start].tolist()
        assert line[0] & words.FILLED_MASK == block.filled
        assert line[1:7] == [block.start, block.envs, block.rows, block.low, *block.life]
        at = block.start % 300 + block.filled  # the newest row of its first environment
        assert obs[at] in {n + 1 for n in twin.valid}


@given(ops=OPS, before=st.integers(0, 3), after=st.integers(1, 3), seed=st.integers(0, 1000))
def test_a_ring_opened_again_is_the_same_and_goes_on(
    ops: list[tuple[int, int, int]], before: int, after: int, seed: int
) -> None:
    spec, layout = signature(MAX_ROWS, MAX_ENVS), RingLayout(300, before, after, block_rows=8, open_blocks=3)
    rng, lives = np.random.default_rng(seed), dict[tuple[int, int], int]()
    with tempfile.TemporaryDirectory() as folder:
        twin = Twin(Ring(spec, layout, FileAllocator(folder)))
        writers = [CountingLife(slot, 0, slot + 1, rng, end=0.2) for slot in range(3)]
        for slot, rows, luck in ops:
            life = writers[slot]
            twin.insert(life, rows)
            lives[slot, life.incarnation] = life.seq
            if luck == 0:
                twin.ring.end_life(slot, life.incarnation)
                del lives[slot, life.incarnation]
                writers[slot] = CountingLife(slot, life.incarnation + 1, slot + 1, rng, end=0.2)
            if luck < 6:  # the one before is given up as it is, like a process that is killed
                former, twin.ring = twin.ring, Ring(spec, layout, FileAllocator(folder, existing=True))
                for name in ("items", "evicted", "inserted", "tail", "head"):
                    assert getattr(twin.ring, name) == getattr(former, name), name
                np.testing.assert_array_equal(twin.ring.live, former.live)
                assert twin.ring.lives() == lives
        twin.check()


def test_incarnations_of_64_bits_are_stored(rng: np.random.Generator) -> None:
    ring = Ring(signature(MAX_ROWS, MAX_ENVS), RingLayout(500))
    ring.insert(0, 2**64 - 2, 1, CountingLife(0, 1, 2, rng).unroll(2), 2, 2)
    assert ring.files.blocks[ring._order[0].number, words.INCARNATION] == -2
    ring.load()
    assert ring.lives() == {(0, 2**64 - 2): 1}
