"""Who may call what, and what connections are encrypted with: tokens by role, certificates, where both are read from.

A tokens file has a token a line, `ROLE: TOKEN`, or `TOKEN` alone, which is good for every role; `#` begins a comment.
A server takes every token of its file, a client sends the first one of the role that a call needs. So a file may be
different on each host, and have an old and a new token of a role while they are exchanged: it is read again when it
changes. Settings come from the environment, which a launcher's children inherit; `--token-file` and `--tls-*` set it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.clock import Clock, SystemClock
from core.errors import ConfigError

ROLES = ("actor", "learner", "admin")
NEEDED = {
    "Join": "actor",
    "Weights": "actor",
    "Insert": "actor",
    "Sample": "learner",
    "EnsureTable": "admin",
    "DropTable": "admin",
    "Checkpoint": "admin",
    "Rollback": "admin",
}
"""The role that a call of either service needs; what is not here is for anybody with a token."""
LEAST_CHARACTERS = 16
LOOK_EVERY_S = 1.0
TOKEN, TOKEN_FILE = "SHOAL_TOKEN", "SHOAL_TOKEN_FILE"
TLS = {"ca": "SHOAL_TLS_CA", "cert": "SHOAL_TLS_CERT", "key": "SHOAL_TLS_KEY"}
TLS_NAME = "SHOAL_TLS_NAME"
logger = logging.getLogger(__name__)


class Known(NamedTuple):
    """One token; `role` None: good for all."""

    role: str | None
    token: str


class Tokens:
    """Those of one text, or of one file, which is read again when it changes. Raises ConfigError where it is none."""

    def __init__(self, text: str = "", path: Path | None = None, clock: Clock | None = None) -> None:
        self._path, self._clock = path, clock or SystemClock()
        self._stamp = self._now_stamp()
        self._known = parse(text if path is None else _read(path), str(path or TOKEN))
        self._next_look_s = self._clock.now_s() + LOOK_EVERY_S
        self._changes = 0

    @property
    def changes(self) -> int:
        """How often the file had other tokens than before: who asked for a token's roles before asks again."""
        self._look()
        return self._changes

    def of(self, role: str | None) -> str | None:
        """What a client sends in a call that needs `role`; None where it has nothing fitting."""
        self._look()
        fitting = [known for known in self._known if role is None or known.role in (role, None)]
        return fitting[0].token if fitting else None

    def roles_of(self, token: str) -> frozenset[str]:
        """What a token is good for; nothing where it is unknown. Takes as long for any token."""
        self._look()
        digest, found = _digest(token), set[str]()
        for known in self._known:
            if hmac.compare_digest(_digest(known.token), digest):
                found.update(ROLES if known.role is None else (known.role,))
        return frozenset(found)

    def are_in(self, text: str) -> bool:
        """Whether a text has one of them in it, so that it must not be shown."""
        self._look()
        return any(known.token in text for known in self._known)

    def _look(self) -> None:
        if self._path is None or self._clock.now_s() < self._next_look_s:
            return
        self._next_look_s = self._clock.now_s() + LOOK_EVERY_S
        stamp = self._now_stamp()
        if stamp == self._stamp:
            return
        try:
            self._known, self._stamp = parse(_read(self._path), str(self._path)), stamp
            self._changes += 1
            logger.info("%s was read again: %d tokens", self._path, len(self._known))
        except ConfigError as error:
            logger.warning("%s; the tokens before stay good", error)

    def _now_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_ino, status.st_size)


@dataclass(frozen=True)
class Tls:
    """PEM files. `ca` proves the other end; `cert` and `key` are shown to it. `name` is the one in its certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None


@dataclass(frozen=True)
class Security:
    """What a process proves itself with and asks of others; empty: nothing, and only on this machine."""

    tokens: Tokens | None = None
    tls: Tls | None = None


OPEN = Security()


def from_environment(environment: Mapping[str, str] = os.environ) -> Security:
    """What the SHOAL_TOKEN... and SHOAL_TLS... variables say. Raises ConfigError with every problem."""
    ConfigError.raise_if(_problems(environment))
    tokens = None
    if environment.get(TOKEN_FILE):
        tokens = Tokens(path=Path(environment[TOKEN_FILE]))
    elif environment.get(TOKEN):
        tokens = Tokens(environment[TOKEN])
    files = {name: Path(environment[variable]) for name, variable in TLS.items() if environment.get(variable)}
    tls = Tls(**files, name=environment.get(TLS_NAME) or None) if files else None
    return Security(tokens, tls)


def _problems(environment: Mapping[str, str]) -> Iterator[str]:
    if environment.get(TOKEN) and environment.get(TOKEN_FILE):
        yield f"{TOKEN} and {TOKEN_FILE} are both set: leave one out"
    if bool(environment.get(TLS["cert"])) != bool(environment.get(TLS["key"])):
        yield f"{TLS['cert']} and {TLS['key']} belong together: set both or neither"
    for variable in TLS.values():
        file = environment.get(variable)
        if file and not os.access(file, os.R_OK):
            yield f"{variable}: {file} cannot be read"


def parse(text: str, where: str) -> tuple[Known, ...]:
    """The tokens of a file's text. Raises ConfigError, which never has one of them in it."""
    known, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        role, colon, token = line.partition(":")
        found = Known(role.strip(), token.strip()) if colon else Known(None, line)
        if found.role is not None and found.role not in ROLES:
            problems.append(f"{where}, line {number}: the role must be one of {', '.join(ROLES)}, or left out")
        elif len(found.token) < LEAST_CHARACTERS or not found.token.isascii() or not found.token.isprintable():
            problems.append(f"{where}, line {number}: a token has {LEAST_CHARACTERS} or more printable characters")
        known.append(found)
    if not known:
        problems.append(f"{where} has no token: write one a line, `ROLE: TOKEN` or `TOKEN`")
    ConfigError.raise_if(problems)
    return tuple(known)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT or unix:PATH can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{TOKEN_FILE}: {path} cannot be read ({error})") from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
