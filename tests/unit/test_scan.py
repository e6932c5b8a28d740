import pytest
import torch

from core.rl.scan import scan


def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x = torch.zeros_like(a)
    after = torch.zeros_like(a[0])
    for t in reversed(range(len(a))):
        after = a[t] + b[t] * after
        x[t] = after
    return x


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100])
def test_equals_the_loop(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(scan(a, b), slow(a, b), rtol=1e-10, atol=1e-10)


def test_literal() -> None:
    a = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    b = torch.tensor([[0.5], [0.0], [0.5], [100.0]])  # row 1 cuts; the last factor meets x_T = 0
    assert scan(a, b).tolist() == [[2.0], [2.0], [8.0], [8.0]]


def test_leaves_its_arguments_alone() -> None:
    a, b = torch.ones(5, 2), torch.ones(5, 2)
    scan(a, b)
    assert (a == 1).all()
    assert (b == 1).all()


def test_further_axes_are_columns() -> None:
    a, b = torch.rand(6, 2, 4), torch.rand(6, 2, 4)
    torch.testing.assert_close(scan(a, b), scan(a.view(6, 8), b.view(6, 8)).view(6, 2, 4))
