"""core/security.py and core/gate.py: files of tokens, the environment, this machine, the rate of failures."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from actors.main import check_code
from core.clock import FakeClock
from core.errors import ConfigError, RateLimitedError, UnauthenticatedError
from core.gate import FAILURES, MOST_HOSTS, Gate
from core.runspec import RunSpec
from core.security import OPEN, Security, Tls, Tokens, from_environment, is_loopback, parse
from tests.unit.test_runspec import SPEC

A, B, C = "a" * 20, "b" * 20, "c" * 20


def test_a_file_has_a_token_a_line_with_or_without_a_role() -> None:
    tokens = Tokens(f"# ours\n\nactor: {A}   # the old one\n actor:{B}\nlearner: {C}\n")
    assert (tokens.of("actor"), tokens.of("learner"), tokens.of("admin"), tokens.of(None)) == (A, C, None, A)
    assert tokens.roles_of(B) == {"actor"}
    assert tokens.roles_of("b" * 19) == tokens.roles_of("") == frozenset()
    assert Tokens(A).roles_of(A) == {"actor", "learner", "admin"}
    assert Tokens(f"actor: {A}\n{A}").roles_of(A) == {"actor", "learner", "admin"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x has no token"),
        ("# nothing", "x has no token"),
        ("short", "x, line 1: a token has 16 or more printable"),
        (f"{A}\nboss: {B}", "x, line 2: the role must be one of actor, learner, admin"),
        ("actor: \u00e4" + A, "x, line 1: a token has 16 or more printable"),
        (f"actor: {A}\nshort\nboss: {B}", "2 problems"),
    ],
)
def test_what_is_no_file_of_tokens_is_refused_without_showing_them(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        parse(text, "x")
    assert all(token not in str(refused.value) for token in (A, B, "short"))


def test_a_file_is_read_again_when_it_changes_and_not_every_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "t", FakeClock()
    file.write_text(A)
    tokens = Tokens(path=file, clock=clock)
    file.write_text(f"{A}\n{B}\n")
    assert tokens.roles_of(B) == frozenset(), "it is looked at once a second"
    clock.advance(1.1)
    assert tokens.roles_of(B)
    file.write_text("torn")
    clock.advance(1.1)
    with caplog.at_level(logging.WARNING):
        assert tokens.roles_of(A)
    assert "the tokens before stay good" in caplog.text
    file.unlink()
    clock.advance(1.1)
    assert tokens.roles_of(A)
    file.write_text(B)
    clock.advance(1.1)
    assert (tokens.roles_of(A), tokens.of("actor")) == (frozenset(), B)
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens(path=tmp_path / "nothing")


def test_the_environment_says_what_a_process_proves_itself_with(tmp_path: Path) -> None:
    assert from_environment({}) == OPEN
    assert from_environment({"SHOAL_TOKEN": "", "SHOAL_TLS_CA": ""}) == OPEN
    files = {name: tmp_path / name for name in ("tokens", "ca", "cert", "key")}
    for path in files.values():
        path.write_text(A)
    given = {"SHOAL_TOKEN_FILE": str(files["tokens"]), "SHOAL_TLS_CA": str(files["ca"]), "SHOAL_TLS_NAME": "learner"}
    security = from_environment(given)
    assert security.tokens is not None
    assert security.tokens.of("actor") == A
    assert security.tls == Tls(ca=files["ca"], name="learner")
    pair = {"SHOAL_TLS_CERT": str(files["cert"]), "SHOAL_TLS_KEY": str(files["key"])}
    assert from_environment(pair).tls == Tls(cert=files["cert"], key=files["key"])
    assert from_environment({"SHOAL_TOKEN": A}).tokens is not None


def test_all_that_is_wrong_with_the_environment_is_said_at_once(tmp_path: Path) -> None:
    given = {"SHOAL_TOKEN": A, "SHOAL_TOKEN_FILE": "/x", "SHOAL_TLS_CERT": "/nothing", "SHOAL_TLS_CA": "/nowhere"}
    with pytest.raises(ConfigError, match="4 problems") as refused:
        from_environment(given)
    for words in ("both set", "belong together", "/nothing cannot be read", "/nowhere cannot be read"):
        assert words in str(refused.value)
    assert A not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:7400", True),
        ("127.8.9.1:0", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/tmp/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.evil.example:1", False),
        (":7400", False),
    ],
)
def test_only_loopback_is_this_machine(address: str, here: bool) -> None:
    assert is_loopback(address) == here


def test_a_host_that_fails_too_often_is_told_less_and_a_good_token_passes() -> None:
    clock = FakeClock()
    gate = Gate(Security(Tokens(A)), clock)
    good, bad = [("authorization", f"Bearer {A}")], [("authorization", f"Bearer {B}")]
    for _ in range(FAILURES):
        gate.check("Info", good, "ipv4:10.0.0.1:5")
        with pytest.raises(UnauthenticatedError):
            gate.check("Info", bad, "ipv4:10.0.0.1:5")
    for _ in range(3):
        with pytest.raises(RateLimitedError, match="too many calls without a good token came from ipv4"):
            gate.check("Info", bad, "ipv4:10.0.0.1:6")
    gate.check("Info", good, "ipv4:10.0.0.1:6")
    with pytest.raises(UnauthenticatedError):
        gate.check("Info", bad, "ipv4:10.0.0.2:5")
    clock.advance(1.5)
    with pytest.raises(UnauthenticatedError):
        gate.check("Info", bad, "ipv4:10.0.0.1:5")
    for host in range(MOST_HOSTS + 10):
        with pytest.raises(UnauthenticatedError):
            gate.check("Info", [], f"ipv4:10.1.{host // 250}.{host % 250}:5")
    assert len(gate._failures) == MOST_HOSTS


def test_addresses_of_one_ipv6_network_are_one_host() -> None:
    gate = Gate(Security(Tokens(A)), FakeClock())
    for number in range(FAILURES):
        with pytest.raises(UnauthenticatedError):
            gate.check("Info", [], f"ipv6:%5B2001:db8:1:2::{number}%5D:5")
    with pytest.raises(RateLimitedError, match="came from ipv6:2001:db8:1:2::/64: wait"):
        gate.check("Info", [], "ipv6:[2001:db8:1:2:ffff::7]:5")
    with pytest.raises(UnauthenticatedError):
        gate.check("Info", [], "ipv6:[2001:db8:1:3::1]:5")


def test_other_schemes_are_no_tokens() -> None:
    gate = Gate(Security(Tokens(A)), FakeClock())
    for value in (A, f"bearer {A}", f"Basic {A}", "Bearer", "Bearer "):
        with pytest.raises(UnauthenticatedError, match="not known here"):
            gate.check("Info", [("authorization", value)], "unix:")


@pytest.mark.parametrize(
    ("address", "security", "allowed", "refused"),
    [
        ("unix:/tmp/x", OPEN, [], False),
        ("127.0.0.1:1", OPEN, [], False),
        ("10.0.0.1:1", OPEN, [], True),
        ("10.0.0.1:1", Security(Tokens(A)), [], True),
        ("10.0.0.1:1", Security(Tokens(A), Tls(Path("ca"))), [], False),
        ("10.0.0.1:1", OPEN, ["my.module"], True),
        ("10.0.0.1:1", OPEN, ["my.module", "my.envs", "my.wraps"], False),
    ],
)
def test_code_is_imported_for_a_learner_that_is_known_only(
    address: str, security: Security, allowed: list[str], refused: bool
) -> None:
    run = RunSpec(**{**vars(SPEC), "env": "my.envs:Maze", "env_wrappers": ["my.wraps:W", "FlattenObservation"]})
    if not refused:
        check_code(run.modules, address, security, allowed)
        return
    with pytest.raises(ConfigError, match=r"wants .*my.wraps.* nothing proves .*--import my"):
        check_code(run.modules, address, security, allowed)


def test_the_shipped_environments_need_no_permission() -> None:
    run = RunSpec(**{**vars(SPEC), "imports": [], "env": "CartPole-v1"})
    check_code(run.modules, "10.0.0.1:1", OPEN, [])


def test_this_process_has_no_tokens_in_its_environment() -> None:
    assert not any(name.startswith("SHOAL_T") and value for name, value in os.environ.items())
