"""replay_server/sample_stream.py's generators: draw j is a function of seed and j, whatever was drawn before."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay_server.sample_stream import DRAW_STREAM, DrawRng

WORDS = st.integers(0, (1 << 64) - 1)


@given(seed=WORDS, draws=st.lists(WORDS, min_size=1, max_size=5))
def test_each_draw_is_that_of_a_generator_of_its_own(seed: int, draws: list[int]) -> None:
    ours = DrawRng(seed)
    for draw in draws:
        key, counter = np.array([seed, DRAW_STREAM], np.uint64), np.array([0, 0, 0, draw], np.uint64)
        own = np.random.Generator(np.random.Philox(key=key, counter=counter))
        rng = ours.rng(draw)
        assert rng.integers(1 << 40, size=3).tolist() == own.integers(1 << 40, size=3).tolist()
        assert rng.random(2).tolist() == own.random(2).tolist()
        assert (
            rng.integers(1 << 20, size=3, dtype=np.int32).tolist()
            == own.integers(1 << 20, size=3, dtype=np.int32).tolist()
        )


def test_other_seeds_and_draws_give_others() -> None:
    draws = {DrawRng(seed).rng(draw).integers(1 << 62) for seed in range(20) for draw in range(20)}
    assert len(draws) == 400
