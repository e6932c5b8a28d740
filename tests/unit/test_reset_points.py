"""learner/checkpoints.py: where reset points are, what is written there, and which checkpoint a run goes on from."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import checkpoint
from core import config as configuration
from core import envs as vector
from core.algorithms import make
from core.clock import FakeClock
from core.config import Config
from core.errors import CheckpointError, ConfigError
from core.rl.optim import flatten
from core.types import Async, Episodes, Lag, Plan, Queue, Rows
from learner.checkpoints import Checkpoints, Start, differences, rounds_between
from learner.pace import Drawing
from learner.progress import Progress

SETTINGS: dict[str, Any] = {
    "algorithm": "ppo",
    "actors": 2,
    "envs_per_actor": 4,
    "env_steps": 10_000,
    "policy_lag": 1,
    "ppo": {"unroll_length": 8, "hidden": [8]},
    "checkpoint": {"every_env_steps": 320},  # 5 rounds of 2 x 4 x 8
}
DRAWING = Drawing((1 << 63) + 5, 7, 500, 21, True, np.arange(3), np.ones(3, np.float32))


class Life:
    """The parts of a learner that a checkpoint is made of."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.config: Config = configuration.from_plain({**SETTINGS, **changes})
        algorithm = make(self.config.algorithm, self.config.settings)
        envs = vector.make(self.config.env, 1)
        spec = vector.spec_of(self.config.env, envs)
        envs.close()
        torch.manual_seed(len(list(folder.parent.iterdir())))
        network = algorithm.network(spec)
        self.flat, self.state = flatten(network), algorithm.state(network)
        self.progress = Progress(FakeClock().now_s, self.config.env_steps)
        plan = Plan(Rows(8), Queue(), Async() if self.config.policy_lag == "async" else Lag(1))
        self.folder = folder
        self.checkpoints = Checkpoints(self.config, plan, folder, spec, self.flat, self.state, self.progress)

    def play(self, rounds: int, drawing: Drawing | None = None, *, exact: bool = True) -> None:
        """Rounds of 60 env steps, as the trainer and the learner go through them."""
        for _ in range(rounds):
            self.checkpoints.published(self.progress.version, self.progress.env_steps, self.flat.snapshot())
            self.flat.params += 0.5
            self.progress.env_steps += 60
            self.progress.updates += 3
            self.progress.version += 1
            if self.checkpoints.is_reset_point(self.progress.version):
                self.checkpoints.save_at_reset_point(drawing, exact=exact)

    def names(self) -> list[int]:
        return [int(path.name) for path in checkpoint.all_in(self.folder)]


@pytest.mark.parametrize(
    ("collect", "pace", "every", "rounds"),
    [
        (Rows(8), Lag(1), 320, 5),
        (Rows(8), Lag(0), 383, 5),
        (Rows(8), Lag(1), 1, 1),
        (Episodes(16), Lag(0), 320, 2),
        (Rows(8), Async(), 320, 0),
    ],
)
def test_reset_points_are_so_many_env_steps_apart_in_whole_rounds(
    collect: Rows | Episodes, pace: Lag | Async, every: int, rounds: int
) -> None:
    config = configuration.from_plain({**SETTINGS, "checkpoint": {"every_env_steps": every}})
    assert rounds_between(config, Plan(collect, Queue(), pace)) == rounds


def test_a_run_goes_on_from_its_newest_reset_point_with_all_that_it_had(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.play(5, DRAWING)
    at_5, before_5 = life.flat.snapshot(), life.flat.snapshot() - np.float32(0.5)
    kept = life.progress.to_plain()
    life.play(2)
    life.checkpoints.save()  # Ctrl-C between two reset points
    assert life.names() == [300, 420]
    again = Life(tmp_path / "c")
    start = again.checkpoints.resume()
    assert (start.version, start.first_version, start.exact) == (5, 4, True)
    assert [(v.version, v.env_steps) for v in start.published] == [(4, 240)]
    np.testing.assert_array_equal(again.flat.snapshot(), at_5)
    params = len(life.flat.params)
    np.testing.assert_allclose(start.published[0].params[:params], before_5[:params], rtol=1e-6)
    assert again.progress.to_plain() == {**kept, "resumes": 1}
    drawing = start.drawing
    assert drawing is not None
    assert dataclasses.replace(drawing, keys=None, priorities=None) == dataclasses.replace(
        DRAWING, keys=None, priorities=None
    )
    assert drawing.keys is not None
    assert drawing.priorities is not None
    assert drawing.keys.tolist() == [0, 1, 2]
    assert drawing.priorities.dtype == np.float32


def test_the_best_at_a_reset_point_does_not_take_its_place(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.play(5)
    life.progress.evaluated(30.0, 0.1, None)
    life.checkpoints.save()
    assert life.names() == [300]
    saved = checkpoint.read(checkpoint.latest(life.folder))
    assert saved.meta["eval_return"] == 30.0
    assert saved.resume is not None
    assert saved.resume["progress"]["evaluations"] == 0, "that evaluation is made again"


def test_a_torn_one_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    life = Life(tmp_path / "c")
    life.play(10)
    tensors = checkpoint.latest(life.folder) / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert Life(tmp_path / "c").checkpoints.resume().version == 5
    assert "its sha256 does not match" in caplog.text
    for path in life.folder.iterdir():
        (path / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)can be used.*sha256.*sha256"):
        Life(tmp_path / "c").checkpoints.resume()


def test_the_two_newest_reset_points_outlive_whatever_is_written_after_them(tmp_path: Path) -> None:
    life = Life(tmp_path / "c", checkpoint={"every_env_steps": 320, "keep": 1})
    life.play(15)
    for _ in range(4):
        life.play(1)
        life.checkpoints.save()
    assert life.names() == [600, 900, 1140]


@pytest.mark.parametrize("changes", [{"env_steps": 20_000}, {"ppo": {"unroll_length": 8, "hidden": [8], "gamma": 0.9}}])
def test_with_other_settings_it_is_another_run_from_the_newest_of_all(tmp_path: Path, changes: dict[str, Any]) -> None:
    life = Life(tmp_path / "c")
    life.play(7)
    life.checkpoints.save()
    start = Life(tmp_path / "c", **changes).checkpoints.resume()
    assert start == Start(version=7, exact=False)


def test_a_replay_table_goes_back_to_reset_points_alone(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.play(7, DRAWING)
    life.checkpoints.save()
    start = Life(tmp_path / "c", env_steps=20_000).checkpoints.resume()
    assert (start.version, start.exact, start.drawing is None) == (5, False, False)
    assert Life(tmp_path / "c", seed=9).checkpoints.resume() == Start(version=7, exact=False)


def test_what_was_inexact_before_stays_so(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.play(5, exact=False)
    assert not Life(tmp_path / "c").checkpoints.resume().exact


def test_in_async_pace_the_newest_counts(tmp_path: Path) -> None:
    life = Life(tmp_path / "c", policy_lag="async")
    life.play(7)
    assert life.names() == []
    life.checkpoints.save()
    assert Life(tmp_path / "c", policy_lag="async").checkpoints.resume() == Start(version=7, exact=False)


def test_a_used_up_budget_and_another_network_are_refused(tmp_path: Path) -> None:
    life = Life(tmp_path / "c", env_steps=300)
    life.play(5)
    with pytest.raises(ConfigError, match=r"the budget of 300 is used up \(the checkpoint has 300\)"):
        Life(tmp_path / "c", env_steps=300).checkpoints.resume()
    other = {"ppo": {"unroll_length": 8, "hidden": [4]}}
    with pytest.raises(CheckpointError, match=r"(?s)another network.*settings.hidden: \[8\] -> \[4\].*leave out what"):
        Life(tmp_path / "c", **other).checkpoints.resume()


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.play(5)
    file = checkpoint.latest(life.folder) / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this Shoal reads"):
        Life(tmp_path / "c").checkpoints.resume()
    shutil.rmtree(life.folder)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Life(tmp_path / "c").checkpoints.resume()


def test_nothing_is_written_before_the_first_update_but_at_the_beginning(tmp_path: Path) -> None:
    life = Life(tmp_path / "c")
    life.checkpoints.save()
    assert life.names() == []
    life.checkpoints.save_at_reset_point(None, exact=True)
    assert life.names() == [0]
    assert Life(tmp_path / "c").checkpoints.resume() == Start(version=0, exact=True)


def test_differences_are_told_by_name() -> None:
    assert differences("a", {"b": {"c": 1, "d": 2}}, {"b": {"c": 1, "d": 3, "e": 4}}) == [
        *("a.b.d: 2 -> 3", "a.b.e: not set -> 4"),
    ]
