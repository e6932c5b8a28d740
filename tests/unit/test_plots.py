"""Pictures: what is read, what is drawn, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from core.errors import ConfigError
from shoal.plots import _short, band, draw_comparison, draw_learning_curve, read_curve

pytestmark = pytest.mark.slow


def write_run(path: Path, *, algorithm: str = "ppo", scale: float = 1.0, evaluations: int = 5) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"algorithm: {algorithm}\nenv: CartPole-v1\nseed: 3\ntarget_return: 475\n")
    records: list[dict[str, Any]] = [{"kind": "progress", "env_steps": 0, "env_steps_per_s": 10.0}]
    records += [
        {"kind": "progress", "env_steps": 1000 * i, "env_steps_per_s": 100.0 + i, "mean_return": scale * i}
        for i in range(1, 50)
    ]
    records += [
        {"kind": "evaluation", "env_steps": 9000 * i, "eval_return": scale * 10 * i} for i in range(evaluations)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_a_curve_has_pairs_of_what_exists(tmp_path: Path) -> None:
    curve = read_curve(write_run(tmp_path / "a"))
    assert (curve.algorithm, curve.env, curve.seed, curve.target_return) == ("ppo", "CartPole-v1", 3, 475.0)
    assert curve.returns.shape == (49, 2)
    assert curve.speeds.shape == (50, 2)
    assert curve.returns[0].tolist() == [1000.0, 1.0]
    assert curve.evaluations[-1].tolist() == [36_000.0, 40.0]
    assert curve.main is curve.evaluations


def test_after_a_resume_the_later_record_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluations=0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "progress", "env_steps": 2000, "mean_return": 77.0}) + "\n")
    curve = read_curve(run)
    assert curve.returns[1].tolist() == [2000.0, 77.0]
    assert np.all(np.diff(curve.returns[:, 0]) > 0)
    assert curve.main is curve.returns


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    path = draw_learning_curve(write_run(tmp_path / "a"))
    assert path == tmp_path / "a" / "learning_curve.png"
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] > picture.shape[0] > 600
    blue, orange, green = (np.array(c) for c in ((0.145, 0.388, 0.659), (0.851, 0.451, 0.051), (0.184, 0.522, 0.353)))
    for colour in (blue, orange, green):
        assert (np.abs(picture[..., :3] - colour).max(-1) < 0.02).sum() > 200


def test_a_run_that_only_began_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "progress", "env_steps": 5}\n')
    assert draw_learning_curve(tmp_path).is_file()


def test_several_runs_are_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"p{i}", scale=1 + i / 4) for i in range(3)]
    runs.append(write_run(tmp_path / "d", algorithm="dqn", evaluations=1))
    assert draw_comparison(runs, tmp_path / "all.png").stat().st_size > 10_000


def test_the_band_is_median_and_extremes_where_all_have_values() -> None:
    lines = [np.array([[0.0, 0.0], [10.0, 10.0 * k]]) for k in (1, 2, 9)]
    lines.append(np.zeros((0, 2)))
    lines[0] = lines[0][:, :] + [[2.0, 2.0], [0.0, 0.0]]
    env_steps, low, middle, high = band(lines, points=3)
    assert env_steps.tolist() == [2.0, 6.0, 10.0]
    assert low.tolist() == [2.0, 6.0, 10.0]
    assert middle.tolist() == [4.0, 12.0, 20.0]
    assert high.tolist() == [18.0, 54.0, 90.0]
    assert all(part.size == 0 for part in band([]))


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_learning_curve(tmp_path / "nowhere")


def test_an_unwritable_picture_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot write the plot"):
        draw_learning_curve(run, tmp_path / "no folder" / "x.png")
    with pytest.raises(ConfigError, match="cannot write the plot"):
        draw_learning_curve(run, tmp_path / "x.docx")


def test_short_numbers() -> None:
    assert [_short(v) for v in (0, 250, 12_500, 2e6, 3e9, -1000)] == ["0", "250", "12.5k", "2M", "3G", "-1k"]
