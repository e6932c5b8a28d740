"""Numbers, texts and nulls of the settings, however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core import config
from core.config import Config, read
from tests.unit.configuring import NO_PRESETS, from_yaml, load, problems_of, written


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0E-3", "'1e-3'", "+1e-3", "1_0e-4"])
def test_a_number_is_a_number_however_it_is_written(tmp_path: Path, text: str) -> None:
    assert load(None, {}, [f"checkpoint.every_s={text}"]).checkpoint.every_s == 0.001
    assert load(written(tmp_path, f"checkpoint:\n  every_s: {text}\n")).checkpoint.every_s == 0.001
    assert isinstance(load(None, {}, ["target_return=475"]).target_return, float)


@pytest.mark.parametrize("text", ["1e6", "1_000_000", "1000000", "1000000.0", "'1000000'", "'1e6'"])
def test_whole_numbers_may_have_an_exponent(text: str) -> None:
    env_steps = load(None, {}, [f"env_steps={text}"]).env_steps
    assert env_steps == 1_000_000
    assert isinstance(env_steps, int)


@pytest.mark.parametrize(
    "setting", ["actors=1.5", "actors=true", "actors=null", "actors=inf", "actors=.inf", "actors=[1]", "actors=nan"]
)
def test_what_is_no_whole_number_is_refused(setting: str) -> None:
    (problem,) = problems_of(setting)
    assert problem.startswith("actors: must be a whole number, not ")


@pytest.mark.parametrize("value", ["yes", "on", "no", "12:30", "2026-01-01", "0o7", "1.2.3"])
def test_text_stays_text(value: str) -> None:
    assert load(None, {}, [f"run_dir={value}"]).run_dir == value
    assert from_yaml(config.to_yaml(Config(run_dir=value))).run_dir == value
    assert yaml.safe_load(config.to_yaml(Config(run_dir=value)))["run_dir"] == value


def test_text_that_looks_like_a_number_wants_quotes() -> None:
    (problem,) = problems_of("run_dir=5")
    assert problem == "run_dir: must be text (in quotes where it looks like a number) or null, not 5"
    assert load(None, {}, ['run_dir="5"']).run_dir == "5"
    assert Config(run_dir=Path("runs") / "x").run_dir == "runs/x"  # type: ignore[arg-type]


def test_null_is_for_what_may_be_absent() -> None:
    assert load(None, {}, ["target_return=null", "network.metrics_port=~", "run_dir="], presets=NO_PRESETS) == Config()
    (problem,) = problems_of("env=null")
    assert problem == "env: must be text (in quotes where it looks like a number), not None"


def test_policy_lag_is_a_number_or_a_word() -> None:
    lags = [load(None, {}, [f"policy_lag={text}"]).policy_lag for text in ("0", "1", "'1'", "async", "auto")]
    assert lags == [0, 1, 1, "async", "auto"]
    assert problems_of("policy_lag=true") == ["policy_lag: must be one of auto, async, 0, 1, not True"]


def test_environment_arguments_are_kept_as_given() -> None:
    loaded = load(None, {"env_kwargs": {"a": 1}}, ["env_kwargs.b=[1, x, true]", "env_kwargs.c.d=1e-3"])
    assert loaded.env_kwargs == {"a": 1, "b": [1, "x", True], "c": {"d": 0.001}}
    (problem,) = read(None, {"env_kwargs": {"a": object}})[1]
    assert problem.startswith("env_kwargs: must be names and values of numbers, text, lists and mappings")
