"""A whole run with tokens and TLS, an actor from outside, one with the wrong token, and no secret left anywhere."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import trustme

from tests import certs
from tests.e2e.runs import SMALL_PPO, Train, env_steps, finish, shoal, wait_until

pytestmark = pytest.mark.slow
TOKENS = {role: f"{role}-secret-{'x' * 20}" for role in ("actor", "learner", "admin")}
DEADLINE_S = 60.0


def tls(folder: Path, role: str) -> list[str]:
    files = {"ca": "ca.pem", "cert": f"{role}.pem", "key": f"{role}-key.pem"}
    return [word for flag, file in files.items() for word in (f"--tls-{flag}", str(folder / "certs" / file))]


def test_who_has_token_and_certificate_takes_part_and_nobody_else(train: Train, tmp_path: Path) -> None:
    certs.write(tmp_path / "certs", trustme.CA())
    (tmp_path / "all").write_text("".join(f"{role}: {token}\n" for role, token in TOKENS.items()))
    (tmp_path / "own").write_text(f"actor: {TOKENS['actor']}\n")
    (tmp_path / "wrong").write_text("actor: nobody-knows-this-one\n")
    flags = ["--listen", "localhost:0", "--token-file", str(tmp_path / "all"), *tls(tmp_path, "learner")]
    run = train("--algorithm", "ppo", "--env-steps", "100000000", *flags, "--set", *SMALL_PPO)
    log = tmp_path / "run" / "logs" / "learner.log"
    wait_until(lambda: env_steps(tmp_path) > 0, run, "the first steps")
    found = re.search(r"listens on (localhost:\d+)", log.read_text())
    assert found is not None
    joining = ["actor", "--learner", found[1]]
    refused = {
        "is not known here": [*joining, "--token-file", str(tmp_path / "wrong"), *tls(tmp_path, "actor")],
        "no token came": [*joining, *tls(tmp_path, "actor")],
    }
    for words, arguments in refused.items():
        out, err = (actor := shoal(tmp_path, *arguments)).communicate(timeout=DEADLINE_S)
        assert actor.returncode == 4, out + err
        assert words in err
    status = shoal(tmp_path, "status", found[1], "--token-file", str(tmp_path / "own"), *tls(tmp_path, "actor"))
    out, err = status.communicate(timeout=DEADLINE_S)
    assert status.returncode == 0, err
    assert "ppo on CartPole-v1" in out
    actor = shoal(tmp_path, *joining, "--token-file", str(tmp_path / "own"), *tls(tmp_path, "actor"))
    wait_until(lambda: "slot 1: joined" in log.read_text(), run, "the actor from outside")
    at = env_steps(tmp_path)
    wait_until(lambda: env_steps(tmp_path) > at + 200, run, "further steps")
    run.send_signal(signal.SIGINT)
    code, said = finish(run)
    assert code == 130, said
    told = said + "".join(actor.communicate(timeout=DEADLINE_S)) + out + err
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            told += path.read_bytes().decode(errors="replace")
    assert not [role for role, token in TOKENS.items() if token in told], "a token is in a log or a file"
    assert "nobody-knows-this-one" not in told


def test_a_learner_with_tls_on_a_public_address_reaches_its_own_table(tmp_path: Path) -> None:
    """Its certificate is for localhost, not for 0.0.0.0."""
    certs.write(tmp_path / "certs", trustme.CA())
    (tmp_path / "all").write_text("".join(f"{role}: {token}\n" for role, token in TOKENS.items()))
    flags = ["--algorithm", "dqn", "--replay", "embedded", "--run-dir", "run", "--listen", "0.0.0.0:0"]
    learner = shoal(tmp_path, "learner", *flags, "--token-file", str(tmp_path / "all"), *tls(tmp_path, "learner"))
    assert learner.stdout is not None
    line = learner.stdout.readline()
    learner.send_signal(signal.SIGTERM)
    _, err = learner.communicate(timeout=DEADLINE_S)
    assert re.fullmatch(r"learner listens on 0\.0\.0\.0:\d+\n", line), line + err
