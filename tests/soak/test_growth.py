import os
from pathlib import Path

import pytest

from tests.soak.growth import Held, growth, held


def readings(mib_per_min: float = 0.0, threads: int = 0, files: int = 0) -> list[Held]:
    """Two minutes; memory that jumps up and down and has one peak; threads and files that come up in the middle."""
    return [
        Held(
            2.0 * i, 200 + mib_per_min * i / 30 + i % 3 + 50 * (i == 40), 8 + threads * (i > 40), 20 + files * (i > 40)
        )
        for i in range(60)
    ]


def test_what_stays_has_no_problems() -> None:
    found = growth(readings(mib_per_min=0.9), warm_up_s=30.0)
    assert found is not None
    assert found.mib_per_min == pytest.approx(0.9, abs=0.05)
    assert list(found.problems()) == []


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ({"mib_per_min": 4.2}, "grows by 4.2"),
        ({"threads": 1}, "had 8 threads at most and has 9 at least"),
        ({"files": 2}, "had 20 file descriptors at most and has 22 at least"),
    ],
)
def test_what_grows_is_named(leak: dict[str, int], words: str) -> None:
    found = growth(readings(**leak), warm_up_s=30.0)
    assert found is not None
    (problem,) = found.problems()
    assert words in problem


def test_a_pool_that_breathes_has_no_problems() -> None:
    """One thread more now and then, in the end most of the time."""
    samples = [
        sample._replace(threads=8 + (i % 7 == 0 or (i > 40 and i % 5 > 0))) for i, sample in enumerate(readings())
    ]
    found = growth(samples, warm_up_s=30.0)
    assert found is not None
    assert list(found.problems()) == []


def test_what_a_pool_takes_once_is_no_leak_in_a_short_time() -> None:
    """Three MiB, within a minute."""
    samples = [Held(2.0 * i, 200 + 3 * i / 30, 8, 20) for i in range(31)]
    short = growth(samples, warm_up_s=0.0)
    assert short is not None
    assert short.mib_per_min == pytest.approx(3.0)
    assert list(short.problems()) == []
    longer = growth(
        [sample._replace(at_s=2 * sample.at_s, rss_mib=200 + 3 * i / 15) for i, sample in enumerate(samples)], 0.0
    )
    assert longer is not None
    assert len(list(longer.problems())) == 1


def test_a_life_too_short_tells_nothing() -> None:
    assert growth(readings()[:20], warm_up_s=30.0) is None


def test_a_process_is_read(tmp_path: Path) -> None:
    before = held(os.getpid(), 0.0)
    with (tmp_path / "open").open("w"):
        after = held(os.getpid(), 1.0)
    assert before is not None
    assert after is not None
    assert after.files == before.files + 1
    assert after.rss_mib > 1
    assert held(2**22 + 1, 0.0) is None
