import pytest

from core.rl.schedules import linear


@pytest.mark.parametrize(("progress", "value"), [(-1, 4.0), (0, 4.0), (0.25, 3.5), (1, 2.0), (7, 2.0)])
def test_linear_stays_within_its_ends(progress: float, value: float) -> None:
    assert linear(4.0, 2.0, progress) == value
