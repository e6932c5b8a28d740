"""Returns over masked columns, against textbook sums over the episodes that the columns were cut into."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from core.rl.returns import gae, nstep

GAMMA = 0.9


def tensor(*rows: float) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(1)


def columns(rng: np.random.Generator, rows: int, envs: int = 3) -> tuple[torch.Tensor, ...]:
    """Random rewards, discounts and valid [rows, envs], with ends of both kinds and reset rows after them."""
    rewards, discounts, valid = rng.normal(size=(rows, envs)), np.ones((rows, envs)), np.ones((rows, envs))
    for b in range(envs):
        ended = rng.random() < 0.3
        for t in range(rows):
            if ended:
                rewards[t, b] = valid[t, b] = 0
                ended = False
            elif rng.random() < 0.3:
                ended = True
                discounts[t, b] = rng.choice([0.0, 1.0])
    return tuple(torch.from_numpy(x) for x in (rewards, discounts, valid))


def steps(valid: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """(row, column, end of its episode's rows) for every row that is a step."""
    rows, envs = valid.shape
    for b in range(envs):
        for t in range(rows):
            if valid[t, b]:
                yield t, b, next((k for k in range(t, rows) if not valid[k, b]), rows)


@pytest.mark.parametrize("trace_decay", [0.0, 0.5, 0.95, 1.0])
def test_gae_equals_sums_over_episodes(trace_decay: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = int(rng.integers(1, 14))
        rewards, discounts, valid = columns(rng, rows)
        values = torch.from_numpy(rng.normal(size=(rows + 1, 3)))
        advantages = gae(rewards, discounts, valid, values, GAMMA, trace_decay)
        delta = rewards + GAMMA * discounts * values[1:] - values[:-1]
        for t, b, end in steps(valid):
            wanted = sum((GAMMA * trace_decay) ** (k - t) * delta[k, b] for k in range(t, end))
            assert advantages[t, b] == pytest.approx(float(wanted), abs=1e-10)
        assert (advantages[valid == 0] == 0).all()


def test_gae_literal_with_truncation_and_termination_in_the_middle() -> None:
    # row 1 is truncated, row 3 terminates, rows 2 and 4 are resets, and the unroll ends within an episode
    rewards = tensor(1.0, 2.0, 0.0, 4.0, 0.0, 8.0)
    discounts = tensor(1.0, 1.0, 1.0, 0.0, 1.0, 1.0)
    valid = tensor(1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    values = tensor(10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)
    # gamma 0.5, lambda 0.5; row 1 bootstraps from its final observation (30), row 3 from nothing
    wanted = [1 + 10 - 10 + 0.25 * -3, 2 + 15 - 20, 0, 4 - 40, 0, 8 + 35 - 60]
    assert gae(rewards, discounts, valid, values, 0.5, 0.5).flatten().tolist() == wanted


def test_gae_limits() -> None:
    rewards, discounts, valid = tensor(1, 2, 3), tensor(1, 1, 1), tensor(1, 1, 1)
    values = tensor(5, 6, 7, 8)
    td = rewards + 0.5 * values[1:] - values[:-1]
    torch.testing.assert_close(gae(rewards, discounts, valid, values, 0.5, 0.0), td)
    to_the_end = tensor(1 + 1 + 0.75 + 1, 2 + 1.5 + 2, 3 + 4) - values[:-1]
    torch.testing.assert_close(gae(rewards, discounts, valid, values, 0.5, 1.0), to_the_end)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_nstep_equals_sums_over_episodes(rows: int) -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(40):
        rewards, discounts, valid = columns(rng, rows, envs=4)
        found = nstep(rewards, discounts, valid, GAMMA)
        for t, b, end in steps(valid):
            if t:
                continue  # an item is the first row of its window
            seen.add(end)
            wanted = sum(GAMMA**k * float(rewards[k, b]) for k in range(end))
            assert float(found.returns_N[b]) == pytest.approx(wanted, abs=1e-10)
            assert int(found.steps_N[b]) == end
            assert float(found.factors_N[b]) == pytest.approx(GAMMA**end * float(discounts[end - 1, b]))
    assert seen == set(range(1, rows + 1))


def test_nstep_literal() -> None:
    rewards = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [4.0, 0.0, 9.0]])
    discounts = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    found = nstep(rewards, discounts, valid, 0.5)  # whole window | terminated at row 1 | truncated at row 0
    assert found.returns_N.tolist() == [3.0, 2.0, 1.0]
    assert found.factors_N.tolist() == [0.125, 0.0, 0.5]
    assert found.steps_N.tolist() == [3, 2, 1]
