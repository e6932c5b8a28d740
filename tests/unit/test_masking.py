"""learner/masking.py: nothing secret is shown, and what is none can be read."""

from __future__ import annotations

import secrets
from typing import Any

import ale_py
import gymnasium
import pytest

from core import config, presets
from core.config import Config
from learner.masking import COVER, covered


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "api_key",
        "apiKey",
        "API-KEY",
        "wandb.key",
        "password",
        "db_passwd",
        "client_secret",
        "auth",
        "privateKey",
    ],
)
def test_a_setting_with_the_name_of_a_secret_is_covered_whatever_it_is(name: str) -> None:
    assert covered({"env_kwargs": {name: "x"}}) == {"env_kwargs": {name: COVER}}
    assert covered({name: {"deep": 1}}) == {name: COVER}


@pytest.mark.parametrize(
    "value",
    [
        "sk-abcdefghij0123456789",
        "hf_AbCdEfGhIjKlMnOpQrStUv",
        "https://me:hunter2@host/path",
        "https://host/path?x=1&sig=abc",
        "-----BEGIN PRIVATE KEY-----\nabc",
        "0123456789abcdef0123456789abcdef",
        "run with 5f4dcc3b5aa765d61d8327deb882cf99 please",
    ],
)
def test_a_value_that_looks_secret_is_covered_wherever_it_is(value: str) -> None:
    assert covered({"a": [{"b": value}, 1]}) == {"a": [{"b": COVER}, 1]}
    assert list(covered({value: 1})) == [COVER]


def test_most_random_tokens_are_covered_without_being_known() -> None:
    made = [secrets.token_urlsafe(32) for _ in range(1000)]
    assert sum(covered(token) == COVER for token in made) > 900  # 97 % of them


def test_a_known_token_is_covered_in_any_text() -> None:
    known = "correct horse battery staple"
    assert covered(["-" + known + "-", "horse"], lambda text: known in text) == [COVER, "horse"]


@pytest.mark.parametrize(
    "name", ["gamma", "monkey", "keyboard", "keepalive_s", "author", "tokenizer_size", "env_steps"]
)
def test_other_names_are_shown(name: str) -> None:
    assert covered({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "value",
    ["/home/me/runs/ppo-CartPole-v1-1-20251127-094012", "package.module:factory", "127.0.0.1:7400", "", 3, None],
)
def test_other_values_are_shown(value: Any) -> None:
    assert covered([value]) == [value]


def test_every_setting_and_every_environment_is_shown() -> None:
    plain = config.to_plain(Config(env="ALE/MontezumaRevenge-v5"))
    assert covered(plain) == plain
    gymnasium.register_envs(ale_py)
    assert [name for name in gymnasium.registry if covered(name) != name] == []
    assert all(covered(settings) == config.merge([settings]) for settings in presets.PRESETS.values())
