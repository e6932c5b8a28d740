"""Short ways to read settings, for tests of core/config.py and core/fields.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import config, yaml12
from core.config import Config, read
from core.errors import ConfigError

NO_PRESETS: dict[tuple[str, str], dict[str, Any]] = {}


def load(*layers: Any, **more: Any) -> Config:
    loaded, problems = read(*layers, **more)
    ConfigError.raise_if(problems)
    assert loaded is not None
    return loaded


def from_yaml(text: str) -> Config:
    return config.from_plain(yaml12.load(text))


def problems_of(*sets: str, file: Path | None = None, **more: Any) -> list[str]:
    return read(file, None, sets, **more)[1]


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


# layers
