"""The documents say what is so: settings, command lines, links and files."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import algorithms
from core import envs as vector
from core.algorithms import make
from core.errors import ShoalError, all_errors
from core.plugins import import_modules
from core.rl import torsos
from docs import make_configuration
from shoal import cli, settings
from shoal.supervised import EXIT_ORPHANED

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|proto|md))`")
HEADING = re.compile(r"^#+ (.+)$", re.M)


def commands(text: str) -> Iterator[str]:
    """Every `shoal ...` of the blocks `sh`, and of the lines with a prompt in blocks `console`."""
    for language, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip()
            if language == "console":
                line = line.removeprefix("$ ") if line.startswith("$ ") else ""
            if language in ("sh", "console") and line.startswith("shoal "):
                yield line


def problem_of(command: str) -> str | None:
    """Why a command line cannot be used; None where it can."""
    words = shlex.split(command.replace("$seed", "1"), comments=True)[1:]
    try:
        arguments = cli.parse(words)
        if arguments.name in ("train", "learner") and arguments.config is None:
            config = settings.read(None, {name: getattr(arguments, name) for name in settings.FLAGS}, arguments.set)
            with pytest.MonkeyPatch.context() as patch:  # what it imports registers for this command alone
                patch.setattr(algorithms, "REGISTRY", dict(algorithms.REGISTRY))
                patch.setattr(torsos, "TORSOS", dict(torsos.TORSOS))
                patch.setattr(vector, "_FACTORIES", {})
                patch.delitem(sys.modules, "examples.own", raising=False)
                import_modules(config.imports)
                make(config.algorithm, config.settings)
    except (ShoalError, SystemExit) as error:
        return f"{command}: {error}"
    return None


def anchors(text: str) -> set[str]:
    """The names by which a document's headings can be linked to."""
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text)]
    return {word.strip().replace(" ", "-") for word in words}


def broken_links(document: Path, text: str) -> list[str]:
    """Relative links to files, folders or headings that are not there."""
    found = []
    for link in LINK.findall(re.sub(BLOCK, "", text)):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def missing_files(text: str) -> list[str]:
    """Files named in backticks that do not exist."""
    return [name for name in FILE.findall(text) if not (ROOT / name).is_file()]


def test_configuration_is_what_the_dataclasses_say() -> None:
    page = make_configuration.PAGE.read_text(encoding="utf-8")
    assert page == make_configuration.text(), "stale: run python -m docs.make_configuration"


def test_configuration_names_every_setting() -> None:
    page = make_configuration.text()
    for name in ("`network.listen`", "`checkpoint.every_s`", "`dqn.polyak`", "`ppo.hidden`"):
        assert page.count(f"| {name} |") == 1
    assert "| `ppo.gamma` | float | `0.99` | ≥ 0, ≤ 1 |" in page
    assert "Linearly to 0 at the end of the budget." in page


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [problem for command in commands(text) if (problem := problem_of(command))] == []
    assert broken_links(document, text) == []
    assert missing_files(text) == []


def test_the_documents_have_commands_links_and_files() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    assert len(list(commands(texts["README.md"]))) > 5
    assert len(list(commands(texts["cli.md"]))) > 5
    assert len(LINK.findall(texts["README.md"])) > 5
    assert len(FILE.findall(texts["reading.md"])) > 20


def test_the_lines_of_the_path_are_counted() -> None:
    listed = {
        path: int(count) for count, path in re.findall(r"^ *(\d+) (\S+)$", (ROOT / "docs/reading.md").read_text(), re.M)
    }
    total = listed.pop("total")
    assert len(listed) > 10
    assert total == sum(listed.values())
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in listed}
    assert {path: lines[path] for path in listed if abs(listed[path] - lines[path]) > 0.1 * lines[path]} == {}


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/cli.md").read_text(), re.M)}
    assert told >= {0, EXIT_ORPHANED, *(kind.exit_code for kind in all_errors())}


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    bad = "```sh\nshoal train --actor 2\nshoal train \\\n  --set ppo.gama=1\nshoal eval\nshoal status x\n```\n"
    assert [problem_of(command) is not None for command in commands(bad)] == [True, True, True, False]
    assert list(commands("```console\n$ shoal status x\nshoal was here\n```\n```text\nshoal y\n```\n")) == [
        "shoal status x"
    ]
    document = tmp_path / "a.md"
    document.write_text("# One heading: two\n")
    text = "[1](a.md) [2](b.md) [3](#one-heading-two) [4](#three) [5](a.md#four) [6](https://x.invalid/y)"
    document.write_text(f"# One heading: two\n{text}")
    assert broken_links(document, document.read_text()) == ["b.md", "#three", "a.md#four"]
    assert missing_files("`core/errors.py` and `core/mistakes.py`") == ["core/mistakes.py"]
