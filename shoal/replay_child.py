"""The launcher's replay server: one folder of tables and the same addresses in each of its lives."""

from __future__ import annotations

import contextlib
from pathlib import Path

from core.config import Config
from core.errors import ConfigError
from shoal.data_place import MEMORY, run_folder, tables_in
from shoal.processes import Process, Processes
from shoal.run_dir import RunDir


class ReplayChild:
    """Starts it, and starts it again where it was: whoever was connected comes back by himself.

    A run that is `resume`d takes its tables up where the launcher was killed, before they are swept.
    """

    def __init__(
        self, config: Config, children: Processes, run: RunDir, socket: Path, stack: contextlib.ExitStack, resume: bool
    ) -> None:
        self._config, self._children, self._run, self._socket = config, children, run, socket
        self._stack = stack
        self._port = 0
        self._folder: str | None = None
        self.child: Process | None = None
        if resume and run.replay_folder.exists() and config.replay_data_dir is None:
            former = Path(run.replay_folder.read_text(encoding="utf-8"))
            if former.is_dir():
                self._folder = self._own_folder(former)

    @property
    def survives(self) -> bool:
        """Whether its tables outlive its process."""
        return self._folder != MEMORY

    def start(self) -> None:
        """Begin its first or its next life."""
        if self._folder is None:
            self._folder = self._config.replay_data_dir or self._own_folder()
        if self.child is not None:
            self._port = self.child.port() or self._port
        host = self._config.network.listen.rpartition(":")[0]  # for actors that come from where the learner is reached
        arguments = ["replay", "--listen", f"{host}:{self._port}", "--socket", str(self._socket)]
        arguments += ["--data-dir", self._folder, "--supervised"]
        if self._config.network.replay_metrics_port is not None:
            arguments += ["--metrics-port", str(self._config.network.replay_metrics_port)]
            arguments += ["--metrics-host", self._config.network.metrics_host]
        self.child = self._children.start("replay", arguments, self._run.logs / "replay.log")

    def _own_folder(self, former: Path | None = None) -> str:
        folder = self._stack.enter_context(run_folder(former=former))
        if folder is None:
            return MEMORY
        self._run.replay_folder.write_text(str(folder), encoding="utf-8")
        return str(folder)


def check_empty(config: Config) -> None:
    """Raise ConfigError where a new run's data directory has tables already: it must not learn from another's.

    With a fixed policy lag a resumed run begins with an empty table, too.
    """
    folder = config.replay_data_dir
    tables = [] if folder in (None, MEMORY) else tables_in(Path(str(folder)))
    if tables and config.replay == "process":
        resume = "" if config.policy_lag in (0, 1) else "go on with that one by --resume, "
        raise ConfigError(
            f"replay_data_dir: {folder} holds {', '.join(tables)} of another run; "
            f"{resume}choose another --data-dir, or remove the folder"
        )
