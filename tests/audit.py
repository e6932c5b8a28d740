"""Known weaknesses: bandit over the product's code, pip-audit over requirements.lock where its data can be reached.

python -m tests.audit        (`make audit` installs both first)
"""

from __future__ import annotations

import json
import subprocess
import sys

PACKAGES = ("core", "actors", "learner", "replay_server", "shoal")


def main() -> int:
    """The exit code: 1 where either finds something."""
    bandit = [sys.executable, "-m", "bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", *PACKAGES]
    code = subprocess.call(bandit)
    print("bandit found something" if code else f"bandit found nothing in {', '.join(PACKAGES)}", flush=True)
    return int(bool(code) | _audit())


def _audit() -> bool:
    """Whether a pinned package has a known vulnerability."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", "requirements.lock", "--no-deps", "--disable-pip"]
    found = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"pip-audit: its data cannot be reached: {found.stderr.strip()[-300:]}")
        return False
    audited = [package for package in packages if "skip_reason" not in package]
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        ids = ", ".join(v["id"] for v in package["vulns"])
        print(f"pip-audit: {package['name']} {package['version']} has {ids}")
    why = "" if audited else ": its data cannot be reached"
    print(f"pip-audit looked at {len(audited)} of {len(packages)} packages, {len(vulnerable)} are vulnerable{why}")
    return bool(vulnerable)


if __name__ == "__main__":
    sys.exit(main())
