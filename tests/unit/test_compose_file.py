"""docker-compose.yml without an engine: its commands are ones that Shoal takes, and .env.example has every setting."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

import shoal
from core.algorithms import make
from core.errors import ConfigError
from shoal import cli, settings
from shoal.processes import HOME

FILES = {"cpu": ("docker-compose.yml",), "gpu": ("docker-compose.yml", "docker-compose.gpu.yml")}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?-)([^}]*))?\}")
EXAMPLES = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (HOME / ".env.example").read_text(), re.M))
"""As .env.example has them, with their hash taken away."""
ENVIRONMENTS = {"nothing": {}, "everything empty": dict.fromkeys(EXAMPLES, ""), "the examples": EXAMPLES}
Service = dict[str, Any]


def filled(text: str, environment: Mapping[str, str]) -> str:
    """With its variables replaced as compose does: `:-` is for what is unset or empty, `-` for what is unset."""

    def value(found: re.Match[str]) -> str:
        name, how, default = found.groups()
        own = environment.get(name)
        return default or "" if own is None or (own == "" and how == ":-") else own

    return VARIABLE.sub(value, text)


def services(kind: str, environment: Mapping[str, str]) -> dict[str, Service]:
    """What the files say together: of a service the later one's keys."""
    together: dict[str, Service] = {}
    for name in FILES[kind]:
        for service, keys in yaml.safe_load(filled((HOME / name).read_text(), environment))["services"].items():
            together[service] = {**together.get(service, {}), **keys}
    return together


def commands(kind: str, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """The command lines of what runs `shoal`."""
    return {
        name: shlex.split(service["command"])
        for name, service in services(kind, environment).items()
        if isinstance(service.get("command"), str)
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("kind", FILES)
def test_every_command_line_is_one_that_shoal_takes(kind: str, environment: str) -> None:
    lines = commands(kind, ENVIRONMENTS[environment])
    assert set(lines) == {"replay", "learner", "actor", "status"}
    for service, words in lines.items():
        assert cli.parse(words).name == service
        with pytest.raises(ConfigError, match="unknown argument"):
            cli.parse([*words, "--retired"])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_learners_settings_can_be_used(environment: str) -> None:
    arguments = cli.parse(commands("cpu", ENVIRONMENTS[environment])["learner"])
    config = settings.read(None, {name: getattr(arguments, name) for name in settings.FLAGS}, arguments.set)
    make(config.algorithm, config.settings)
    assert (config.algorithm, config.env, config.actors, config.run_dir) == ("ppo", "CartPole-v1", 2, "/runs/run")
    assert (config.network.metrics_host, config.network.metrics_port) == ("0.0.0.0", 9100)
    assert config.env_steps == (1_000_000 if environment == "the examples" else 100_000)  # of the preset


def test_the_example_has_every_variable_with_its_default() -> None:
    found: dict[str, str] = {}
    for name in FILES["gpu"]:
        found |= {variable: default for variable, _, default in VARIABLE.findall((HOME / name).read_text())}
    assert found.keys() == EXAMPLES.keys()
    told = {name: value for name, value in EXAMPLES.items() if found[name]}
    assert told == {name: default for name, default in found.items() if default}
    for image in ("ACTOR_IMAGE", "LEARNER_IMAGE", "REPLAY_IMAGE"):
        assert found[image].endswith(f":{shoal.__version__}")


def test_every_container_can_do_little() -> None:
    for name, service in services("gpu", {}).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is (name != "grafana"), name
        if "restart" in service:
            assert service["restart"] == "on-failure", "a number would count in all, not in a row"
