"""Certificates for tests, laid out as deploy/certs.sh does it, without the openssl command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

ROLES = ("learner", "replay", "actor")


def write(folder: Path, ca: trustme.CA, days: int = 30) -> None:
    """ca.pem, and for each role ROLE.pem and ROLE-key.pem, good for localhost for so many days (negative: expired)."""
    folder.mkdir(exist_ok=True)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    until = datetime.now(UTC) + timedelta(days=days)
    begin = until - timedelta(days=30) if days < 0 else None
    for role in ROLES:
        issued = ca.issue_cert("localhost", "127.0.0.1", role, common_name=role, not_before=begin, not_after=until)
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{role}.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{role}-key.pem"))
