"""Settings as they may be shown: what is secret, or only looks so, is covered. Pure.

Rather too much is covered than too little: a person who needs the value has config.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

COVER = "(hidden)"
_NAMES = re.compile(
    r"secret|passw|passphrase|credential|cookie|bearer|webhook|(^|_)(pwd|dsn|auth|authorization|pat|salt|seed_phrase)($|_)"
    r"|(^|_)tokens?($|_)|(^|_)keys?$|apikey|private"
)
"""Of settings whose value is covered whatever it is."""
_VALUES = re.compile(
    r"-----BEGIN |://[^/\s:@]*:[^/\s@]+@|[?&;](sig|signature|token|key|password|secret)="
    r"|\b(?-i:(sk|pk|rk|hf|ghp|gho|ghs|glpat|xox[a-z])[-_]|eyJ)[-_A-Za-z0-9]{12,}|\bAKIA[A-Z0-9]{12,}",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-Za-z0-9+]{20,}")
"""So long without a separator are names seldom; with several digits inside, hardly ever."""
LEAST_DIGITS = 2
_WORD = re.compile(r"[\w+-]{24,}", re.ASCII)
_CHANGE = re.compile(r"(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[a-z0-9]|(?<=[0-9])[A-Za-z]")
MOST_CHANGES = 0.48
"""Of a word's letters, the share that are of another kind than the one before: less in names, more in random text."""


def covered(value: Any, is_token: Callable[[str], bool] = lambda text: False) -> Any:
    """The same dicts, lists and numbers, without what looks secret; `is_token` knows more texts that are."""
    if isinstance(value, Mapping):
        return {
            _text(str(key), is_token): COVER if _is_secret(key) and item is not None else covered(item, is_token)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [covered(item, is_token) for item in value]
    return _text(value, is_token) if isinstance(value, str) else value


def _is_secret(name: object) -> bool:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).replace("-", "_").replace(".", "_")
    return bool(_NAMES.search(snake.lower()))


def _text(text: str, is_token: Callable[[str], bool]) -> str:
    looks = _VALUES.search(text) or is_token(text)
    random = any(sum(map(str.isdigit, run)) >= LEAST_DIGITS for run in _RUN.findall(text))
    random = random or any(len(_CHANGE.findall(word)) > MOST_CHANGES * len(word) for word in _WORD.findall(text))
    return COVER if looks or random else text
