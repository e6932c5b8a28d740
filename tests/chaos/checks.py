"""What must hold when a run under fire is over. Each check gives its problems in words; nothing means that it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from shoal.sockets import remove_stale
from tests.chaos.campaign import Campaign, Story
from tests.e2e.runs import pids

SHM = Path("/dev/shm") / f"shoal-{os.getuid()}"
MONOTONE = ("env_steps", "updates", "version", "episodes")


def in_memory() -> set[str]:
    """Folders of runs in shared memory."""
    return {path.name for path in SHM.glob("run-*")}


def problems(
    campaign: Campaign, story: Story, folder: Path, in_memory_before: set[str], weights: str | None
) -> Iterator[str]:
    """All that does not hold; `weights` are those of a run that nothing happened to."""
    if story.code != 0:
        yield f"the run ended with exit code {story.code}"
    yield from _result(campaign, folder, weights)
    yield from _monotone(folder / "run" / "metrics.jsonl")
    orphans = pids(folder)
    if orphans:
        yield f"orphans: {orphans}"
    left = in_memory() - in_memory_before
    if left:
        yield f"left in shared memory: {sorted(left)}"
    yield from _temporary(folder / "tmp", story)
    unwritten = [path.name for path in (folder / "run" / "checkpoints").glob(".tmp-*")]
    if unwritten:
        yield f"half-written checkpoints: {unwritten}"


def _temporary(folder: Path, story: Story) -> Iterator[str]:
    """Sockets and other files: what a killed launcher left goes when it is a minute old, anything else at once."""
    if story.counts["killed all"]:
        for path in folder.iterdir():
            os.utime(path, (0, 0))
        remove_stale(folder)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    if left:
        yield f"left in the folder of temporary files: {left}"


def _result(campaign: Campaign, folder: Path, weights: str | None) -> Iterator[str]:
    try:
        summary = json.loads((folder / "run" / "summary.json").read_text())
    except OSError as error:
        yield f"no summary: {error}"
        return
    if campaign.exact and not summary["deterministic"]:
        yield "the run is not deterministic any more"
    if campaign.exact and summary["weights_sha256"] != weights:
        yield f"its weights are {summary['weights_sha256'][:12]}, those of a run in peace {str(weights)[:12]}"
    if campaign.threshold is not None:
        lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
        best = max((line["eval_return"] for line in lines if line["kind"] == "evaluation"), default=0.0)
        if best < campaign.threshold:
            yield f"it reached {best:.1f}, the threshold is {campaign.threshold:g}"


def _monotone(metrics: Path) -> Iterator[str]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    records = [line for line in lines if line.get("kind") == "progress"]
    for name in MONOTONE:
        values = [record[name] for record in records if name in record]
        if values != sorted(values):
            at = next(i for i in range(1, len(values)) if values[i] < values[i - 1])
            yield f"{name} went back from {values[at - 1]} to {values[at]}"
