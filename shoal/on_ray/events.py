"""What happens to a run on Ray, as lines of a file in its run directory: the driver may come and go and misses none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shoal.progress import Progress, Record


@dataclass(frozen=True)
class Ending:
    """How the manager's launcher ended: the exit code, 0 where all went well, and the error's message."""

    code: int
    text: str


class EventsView:
    """The launcher's view in the manager: notes become lines, progress the driver reads from metrics.jsonl itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._page: str | None = None

    def update(self, progress: Progress) -> None:
        """Where the page is, when that is new."""
        if progress.page != self._page:
            self._page = progress.page
            self._write({"kind": "page", "url": progress.page})

    def note(self, text: str) -> None:
        """A line."""
        self._write({"kind": "note", "text": text})

    def close(self) -> None:
        """Nothing."""

    def scaled(self, actors: int) -> None:
        """So many actors are wanted from here on."""
        self._write({"kind": "actors", "wanted": actors})

    def ended(self, ending: Ending) -> None:
        """Nothing comes after it."""
        self._write({"kind": "ending", "code": ending.code, "text": ending.text})

    def _write(self, record: Record) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def notes(records: Iterable[Record]) -> list[str]:
    """Texts to show."""
    return [record["text"] for record in records if record.get("kind") == "note"]


def page(records: Iterable[Record], default: str | None) -> str | None:
    """Where the learner's page is, after all that happened."""
    found: list[str | None] = [record["url"] for record in records if record.get("kind") == "page"]
    return [default, *found][-1]


def ending(records: Iterable[Record]) -> Ending | None:
    """How the run ended, if one of these says so."""
    found = [record for record in records if record.get("kind") == "ending"]
    return Ending(found[-1]["code"], found[-1]["text"]) if found else None


def wanted(records: Iterable[Record], default: int) -> int:
    """How many actors are wanted, after all that happened."""
    return [default, *(int(record["wanted"]) for record in records if record.get("kind") == "actors")][-1]
