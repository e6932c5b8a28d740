"""benchmarks/scale: a crowd of simulated actors against a real learner, and the arithmetic of its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale, scale_page
from benchmarks.scale_page import Cost, Load, fitted, limits


@pytest.mark.slow
def test_simulated_actors_join_insert_and_are_sent_weights() -> None:
    with scale.hosting(3) as host:
        host.publish_often(params=1000, per_s=50)
        did = scale.crowd(host, actors=3, seconds=0.5, inserts=True)
    assert did["actors"] == 3
    assert did["unrolls_per_s"] > 3, "each of them was acknowledged more than once"
    assert did["weights_per_s"] > 3
    bytes_each = did["weights_bytes_per_s"] / did["weights_per_s"]
    assert 4000 < bytes_each < 4200, "the params and a little around them"


def test_the_fitted_cost_is_the_line_that_the_points_are_on() -> None:
    sizes = [1e3, 1e5, 1e7]
    assert fitted(sizes, [2e-5 + 3e-10 * size for size in sizes]) == pytest.approx(Cost(2e-5, 3e-10))
    assert fitted([1e5, 1e6], [1e-5, 2e-4]).each_s == 0.0, "nothing costs less than nothing"
    assert fitted([1e5, 1e6], [2e-5, 1e-5]).byte_s == 0.0


def test_limits_are_where_the_core_and_the_link_are_full() -> None:
    load = Load("x", params=1_000_000, versions_per_s=2.0, unrolls_per_s=5.0, unroll_bytes=1000)
    core, link = limits(load, Cost(1e-4, 1e-10), Cost(1e-4, 1e-8))
    assert core == 451  # 0.7 / (2 (1e-4 + 4e-4) + 5 (1e-4 + 1e-5))
    assert link == 156  # 1.25e9 / (2 x 4e6)


def test_the_page_is_what_its_figures_give() -> None:
    document = scale.RESULTS.with_suffix(".md")
    results = scale.load(scale.RESULTS)
    page = scale_page.page(results)
    lines = {line for line in page.splitlines() if line.startswith("|")}
    assert lines <= set(document.read_text(encoding="utf-8").splitlines())
    assert max(f["actors"] for f in results["idle"]) == 1000


def test_page_is_written_from_the_figures_at_hand(tmp_path: Path) -> None:
    scale.main(["--again", "--write", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# How cost grows\n")
