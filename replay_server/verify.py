"""Whether a data directory's tables are whole: `shoal replay verify`. Changes no table; takes the lock meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.errors import ConfigError, ReplayError
from replay_server.data_dir import DataDir, read_definition
from replay_server.definition import ReplayDefinition
from replay_server.manifest import NAME, Manifests, read, restore
from replay_server.mark import Mark
from replay_server.ring import Ring
from replay_server.ring_files import RingFiles
from replay_server.settings import plan
from replay_server.storage import FileAllocator
from replay_server.table_folder import going_back

DAMAGED = 1


def run(path: Path) -> tuple[list[str], int]:
    """Lines to print, and the exit code. Raises ConfigError where there is no such directory, or a server has it."""
    if not (path / "format").exists():
        raise ConfigError(f"{path} is no data directory of a replay server: it has no file `format`")
    data_dir = DataDir(path, durable=False)
    try:
        names, lines, problems = data_dir.tables(), list[str](), 0
        for name in names:
            told, found = _verify(data_dir.folder(name))
            lines += [f"table {name}: {line}" for line in told]
            lines += [f"table {name}: DAMAGED: {problem}" for problem in found]
            problems += len(found)
    finally:
        data_dir.close()
    lines.append(f"{len(names)} tables, {problems} problems")
    return lines, DAMAGED if problems else 0


def _verify(folder: Path) -> tuple[list[str], list[str]]:
    """What the table holds, or will once the next server has gone back to a manifest, and what is wrong."""
    lines, problems, mark = list[str](), list[str](), Mark(folder)
    for line, bad in _manifests(folder):
        (problems if bad else lines).append(line)
    durable = (folder / "mark").exists()
    if durable and not mark.position:
        problems.append("the file `mark` cannot be read: after a power cut the table will be empty")

    def prepare(files: RingFiles) -> None:
        back = going_back(files, Manifests(folder), mark, durable=durable)
        if back is not None:
            restore(files, back.manifest, back.written)
            lines.append(f"the next server goes back first: {back.why}")

    try:
        definition = read_definition(folder)
        ring = Ring(
            *(definition.signature, plan(definition).layout, FileAllocator(folder, private=True)),
            priorities=definition.sampler == "prioritised",
            max_times=definition.max_times_sampled,
            prepare=prepare,
        )
    except ConfigError as error:
        return lines, [*problems, *error.problems]
    return [_told(ring, definition), *lines], problems + _damaged_items(ring)


def _told(ring: Ring, definition: ReplayDefinition) -> str:
    lives, ended = len(ring.lives()), len(ring.ended)
    return (
        f"{ring.items:,} items ({definition.sampler}) in {ring.head - ring.tail:,} of {ring.layout.capacity:,} rows, "
        f"{ring.inserted:,} inserted, {ring.files.sampled:,} sampled, {lives} open lives, {ended} that ended"
    )


def _damaged_items(ring: Ring) -> list[str]:
    found = []
    if ring.priority is not None:
        priority = ring.priority[ring.live != 0]
        wrong = int(np.count_nonzero(~(np.isfinite(priority) & (priority >= 0))))
        if wrong:
            found.append(f"{wrong} items have a priority that is negative or not finite")
    largest = ring.files.max_priority
    if not 1 <= largest < np.inf:
        found.append(f"the largest priority is {largest}; it is at least 1 and finite")
    return found


def _manifests(folder: Path) -> Iterator[tuple[str, bool]]:
    for path in sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)):
        try:
            manifest = read(path)
        except ReplayError as error:
            yield str(error), True
            continue
        of = "" if manifest.round is None else f" of round {manifest.round}"
        yield f"manifest {manifest.number}{of}: {manifest.items:,} items", False
