"""deploy/certs.sh: what it makes, what it keeps, and what it says where it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shoal.processes import HOME

SCRIPT = HOME / "deploy" / "certs.sh"
FAKE = """#!/bin/sh
# Notes the call, and writes whatever file follows -out.
echo "$*" >> "$NOTES"
while [ $# -gt 0 ]; do
    if [ "$1" = -extfile ]; then cat "$2" >> "$NOTES"; fi
    if [ "$1" = -out ]; then echo made > "$2"; fi
    shift
done
"""


def run(folder: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path, "NOTES": str(folder / "notes"), "DAYS": "7"}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With an `openssl` that notes how it is called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "openssl").write_text(FAKE)
    (tmp_path / "bin" / "openssl").chmod(0o755)
    return f"{tmp_path / 'bin'}:{os.environ['PATH']}"


def test_it_makes_a_ca_and_a_pair_for_each_role_once(tmp_path: Path, path: str) -> None:
    certs = tmp_path / "certs"
    for _ in range(2):
        assert run(tmp_path, str(certs), "host.example", "10.0.0.7", path=path).returncode == 0
    roles = ("learner", "replay", "actor")
    assert {f"{role}{end}" for role in roles for end in (".pem", "-key.pem")} <= {p.name for p in certs.iterdir()}
    assert not [p for p in certs.iterdir() if p.suffix in (".csr", ".ext")]
    assert certs.stat().st_mode & 0o077 == 0
    notes = (tmp_path / "notes").read_text()
    assert notes.count("-x509 -new") == 1, "what is there is kept"
    assert "subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:actor,DNS:host.example,IP:10.0.0.7" in notes
    assert notes.count("-days 7") == 3


def test_without_openssl_and_without_a_folder_it_says_so(tmp_path: Path, path: str) -> None:
    (tmp_path / "bin" / "openssl").unlink()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    missing = run(tmp_path, str(tmp_path / "certs"), path=str(tmp_path / "bin"))
    assert (missing.returncode, "needs the openssl command" in missing.stderr) == (1, True)
    usage = run(tmp_path, path=path)
    assert (usage.returncode, "deploy/certs.sh DIR [NAME...]" in usage.stderr) == (2, True)
