"""Several hosts on one machine: a network namespace each, cables to one switch, and links to pull."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from shoal.processes import HOME

SWITCH = "shoal-switch"
NET = "10.77.0"


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}(run as root, with iproute2)"


class Hosts:
    """Hosts by name, with addresses 10.77.0.1 on; what they run is killed at the end."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._folder, self._names = folder, names
        self.address = {name: f"{NET}.{number}" for number, name in enumerate(names, 1)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        self._remove()
        _ip("netns", "add", SWITCH)
        _ip("-n", SWITCH, "link", "add", "switch", "type", "bridge")
        _ip("-n", SWITCH, "link", "set", "switch", "up")
        for number, name in enumerate(self._names, 1):
            host = self._space(name)
            _ip("netns", "add", host)
            _ip("-n", SWITCH, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", SWITCH, "link", "set", f"port{number}", "master", "switch", "up")
            _ip("-n", host, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._remove()

    def _space(self, name: str) -> str:
        return f"shoal-{name}"

    def _remove(self) -> None:
        for space in (SWITCH, *map(self._space, self._names)):
            _ip("netns", "del", space, check=False)

    def run(self, host: str, *arguments: str) -> None:
        """`shoal ...` on that host, with `SHOAL_TOKEN` set; its output goes to `HOST.log`."""
        command = ["ip", "netns", "exec", self._space(host), sys.executable, "-m", "shoal", *arguments]
        with self.log(host).open("ab") as log:
            self.processes[host] = subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(HOME), "SHOAL_TOKEN": "a-token-for-this-test-only"},
                stdout=log,
                stderr=log,
            )

    def log(self, host: str) -> Path:
        """What its processes said."""
        return self._folder / f"{host}.log"

    def link(self, host: str, up: bool) -> None:
        """Pull its cable out, at the switch's end, or plug it in."""
        number = self._names.index(host) + 1
        _ip("-n", SWITCH, "link", "set", f"port{number}", "up" if up else "down")

    def stop(self, host: str) -> int:
        """SIGTERM; its exit code."""
        self.processes[host].send_signal(signal.SIGTERM)
        return self.processes[host].wait(20.0)
