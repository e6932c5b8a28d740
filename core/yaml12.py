"""YAML with version 1.2's idea of scalars: 1e-3 is a number; `no`, `on` and 12:30 are text.

A name that is given twice in one section is an error.

Called by core/config.py. Pure functions, any thread.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_NULL = r"~|null|Null|NULL|"
_BOOL = r"true|True|TRUE|false|False|FALSE"
_INT = r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+"
_FLOAT = (
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+|\.[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan"
)
_SCALARS = {
    "null": (_NULL, ["~", "n", "N", ""]),
    "bool": (_BOOL, list("tTfF")),
    "int": (_INT, list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": ("<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name and shape

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Keeps version 1.1's resolvers beside ours, so that other programs read the same text as text."""


for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def load(text: str) -> Any:
    """What `text` means; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # nosec B506 # a SafeLoader with other scalars


def dump(value: Any) -> str:
    """`value` as text that `load` reads back."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text
