"""shoal/sockets.py: folders of sockets that a killed launcher left are removed, and nobody else's."""

from __future__ import annotations

import os
import socket
import time

import pytest

from shoal.sockets import remove_stale


def test_the_sockets_of_a_killed_launcher_are_removed_and_no_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("b")
    names = (
        "shoal-deadaaaa",
        "shoal-livebbbb",
        "shoal-newccccc",
        "shoal-emptyddd",
        "shoal-othereee",
        "shoal-forgotff",
    )
    dead, live, new, empty, other, forgotten = folders = [base / name for name in names]
    for folder in folders:
        folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        for folder in (dead, new):
            with socket.socket(socket.AF_UNIX) as gone:
                gone.bind(str(folder / "learner.sock"))
        server.bind(str(live / "learner.sock"))
        server.listen()
        (other / "notes.sock").touch()
        for folder in (dead, live, forgotten, other):
            os.utime(folder, (0, 0))
        os.utime(empty, (0, time.time() - 600))  # of a launcher whose learner takes its time
        remove_stale(base)
        assert sorted(base.iterdir()) == sorted([live, new, empty, other])
