"""Writes docs/configuration.md from the dataclasses of settings: `python -m docs.make_configuration`.

A setting is described once, at its field; tests/unit/test_docs.py fails where the page is not what this makes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from core import yaml12
from core.algorithms import REGISTRY
from core.config import Config
from core.fields import plain
from core.presets import PRESETS
from shoal.settings import FLAGS

PAGE = Path(__file__).with_name("configuration.md")
SYMBOLS = {"low": "≥", "above": ">", "high": "≤", "below": "<"}
HEAD = """# Configuration

<!-- Made by `python -m docs.make_configuration` from the dataclasses. Do not edit. -->

The settings of a run come from five layers. Each lies over the one before:

1. the defaults below,
2. the preset of the algorithm and environment, where there is one ([presets](#presets)),
3. a YAML file: `--config FILE`,
4. the flags of `shoal train`,
5. `--set NAME=VALUE`, several after one another; the value is read as YAML.

From Python they are `shoal.train(config=FILE, <flag>=..., settings={"NAME": value})`.
A problem in any layer ends the command before training starts. All problems are listed together, with the nearest name
that exists. The whole tree, as it was used, is in the run directory's `config.yaml`.

```sh
shoal train --algorithm ppo --env CartPole-v1 --actors 2 --set ppo.gamma=0.98 ppo.hidden=[128,128] checkpoint.keep=5
```

The same as a file for `--config`:

```yaml
algorithm: ppo
env: CartPole-v1
actors: 2
checkpoint:
  keep: 5
ppo:
  gamma: 0.98
  hidden: [128, 128]
```
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD, "## The run\n", *_tables(Config)]
    for name, algorithm in sorted(REGISTRY.items()):
        parts += [f"## {name}\n", f"Settings of `--algorithm {name}`.\n", _table(algorithm.Config, name)]
        module = sys.modules[algorithm.__module__]
        parts += [f"From {module.__name__.replace('.', '/')}.py:\n", f"```text\n{inspect.getdoc(module)}\n```\n"]
    parts += ["## Presets\n", "Used where the algorithm and the environment are these; your own settings lie above.\n"]
    for (name, env), settings in PRESETS.items():
        parts += [f"### {name} on {env}\n", f"```yaml\n{yaml12.dump(dict(settings))}```\n"]
    return "\n".join(parts).rstrip() + "\n"


def _tables(cls: type, path: str = "") -> Iterator[str]:
    """A table for the fields of `cls`, then one for each section in it."""
    yield _table(cls, path)
    for field, kind in _fields(cls):
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            name = f"{path}.{field.name}" if path else field.name
            yield f"### {name}\n"
            yield f"{inspect.getdoc(kind)}\n"
            yield from _tables(kind, name)


def _table(cls: type, path: str) -> str:
    words = descriptions(cls)
    flags = {name: "--" + flag.replace("_", "-") for flag, name in FLAGS.items()}
    lines = ["| setting | type | default | range | flag | meaning |", "|---|---|---|---|---|---|"]
    for field, kind in _fields(cls):
        if dataclasses.is_dataclass(kind) or (cls is Config and field.name == "settings"):
            continue
        name = f"{path}.{field.name}" if path else field.name
        flag = f"`{flags[name]}`" if name in flags else ""
        cells = [f"`{name}`", _type(kind), _default(field), _range(field.metadata), flag, words.get(field.name, "")]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def descriptions(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass and of those that it extends, on one line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_descriptions(base)
    return found


def _own_descriptions(cls: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    found: dict[str, str] = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for above, below in itertools.pairwise(body):
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(below, ast.Expr):
            value = below.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[above.target.id] = " ".join(value.value.split())
    return found


def _fields(cls: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _type(kind: Any) -> str:
    """A type in words: `int or null`, `one of auto, cpu, cuda`, `list of int`."""
    name = getattr(kind, "__origin__", kind)
    args = get_args(kind)
    if str(kind).startswith("typing.Literal"):
        return f"one of {', '.join(str(a) for a in args)}"
    if name is tuple:
        return f"list of {_type(args[0])}"
    if inspect.isclass(name) and issubclass(name, Mapping):
        return "section"
    if type(None) in args:
        return f"{' or '.join(_type(a) for a in args if a is not type(None))} or null"
    return str(kind.__name__)


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return f"`{json.dumps(plain(value))}`".replace('"', "")


def _range(limits: Mapping[str, Any]) -> str:
    """Limits as `≥ 1, ≤ 10000`."""
    shown = {(1 << 63) - 1: "2^63 - 1", (1 << 31) - 1: "2^31 - 1"}
    return ", ".join(
        f"{sign} {shown.get(limits[name], limits[name])}" for name, sign in SYMBOLS.items() if name in limits
    )


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
