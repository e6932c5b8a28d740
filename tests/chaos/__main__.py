"""The command line: campaign after campaign until so many kills were done. Exit code 1 where anything failed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.campaign import Campaign, Fire
from tests.chaos.checks import in_memory, problems

FAULTS_EACH = 10
COMMON = ("--actors", "2", "--seed", "1", "--set", "faults.restarts=1000", "faults.rejoin_grace_s=30")
PPO = ("--algorithm", "ppo", "--envs-per-actor", "8", *COMMON, "ppo.minibatch_size=128")
DQN = ("--algorithm", "dqn", "--envs-per-actor", "4", *COMMON)
FAR = ("network.keepalive_s=1", "faults.rejoin_grace_s=3")
"""An actor that stays away longer is gone on without."""
LAG = ("checkpoint.every_env_steps=3000", "--policy-lag", "1")
EVALUATED = ("evaluation.every_env_steps=5000", "--target-return", "501")
"""A target that cannot be reached, so that it is evaluated on the way: the best one counts."""
CAMPAIGNS = (
    Campaign("exact-ppo", (*PPO, *LAG, "--env-steps", "120000"), ("learner", "learner", "all", "stop"), exact=True),
    Campaign(
        "rough-dqn",
        (*DQN, *FAR, "checkpoint.every_s=2", *EVALUATED, "--env-steps", "60000"),
        ("learner", "actor", "replay", "stop", "cut", "partition"),
        exact=False,
        threshold=400.0,
    ),
    Campaign(
        "exact-dqn",
        (*DQN, "dqn.replay=prioritised", "dqn.replay_capacity=4000", "dqn.hidden=[32]", *LAG, "--env-steps", "24000"),
        ("learner", "replay", "all", "stop"),
        exact=True,
    ),
    Campaign(
        "rough-ppo",
        (*PPO, *FAR, "checkpoint.every_env_steps=3000", *EVALUATED, "--env-steps", "300000"),
        ("learner", "actor", "partition", "cut", "stop", "all"),
        exact=False,
        threshold=400.0,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("tests.chaos", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=100, metavar="N", help="in all; other faults come beside them (default 100)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is done when")
    parser.add_argument("--only", default="", metavar="NAME", help="one campaign: exact-ppo, exact-dqn, rough-...")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there")
    options = parser.parse_args(argv)
    campaigns = [campaign for campaign in CAMPAIGNS if options.only in campaign.name]
    base, references = Path(tempfile.mkdtemp(prefix="chaos-")), dict[str, str]()
    rows, failed, done, number = [], 0, 0, 0
    while done < options.kills:
        campaign, number = campaigns[number % len(campaigns)], number + 1
        if campaign.exact and campaign.name not in references:
            references[campaign.name] = _in_peace(campaign, base)
        folder, before = base / f"{number}-{campaign.name}", in_memory()
        seed = options.seed * 1000 + number
        story = Fire(campaign, folder, seed, FAULTS_EACH).play()
        wrong = list(problems(campaign, story, folder, before, references.get(campaign.name)))
        done += kills(story.counts)
        failed += bool(wrong)
        rows.append((campaign.name, seed, story.counts, story.took_s, wrong))
        print(f"{campaign.name} (seed {seed}), {story.took_s:.0f} s: {_words(story.counts)}", flush=True)
        if wrong:
            print("\n".join([*story.done, *(f"  FAILED: {what}" for what in wrong), f"  in {folder}"]), flush=True)
        else:
            shutil.rmtree(folder)
    total = sum((counts for _, _, counts, _, _ in rows), Counter[str]())
    print(f"{kills(total)} kills in {len(rows)} runs, {failed} runs failed: {_words(total)}")
    if options.write is not None:
        options.write.write_text(_report(rows, total, failed, options.seed), encoding="utf-8")
    if not failed:
        shutil.rmtree(base)
    return int(failed > 0)


def _in_peace(campaign: Campaign, base: Path) -> str:
    """The weights of the run when nothing happens to it."""
    folder = base / f"peace-{campaign.name}"
    Fire(replace(campaign, faults=()), folder, 0, 0).play()
    weights: str = json.loads((folder / "run" / "summary.json").read_text())["weights_sha256"]
    shutil.rmtree(folder)
    return weights


def kills(counts: Counter[str]) -> int:
    """How many of what was done are kills; everything at once is one."""
    return sum(number for what, number in counts.items() if what.startswith("killed"))


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {n}" for what, n in sorted(counts.items())) or "nothing was done"


def _report(
    rows: Sequence[tuple[str, int, Counter[str], float, list[str]]], total: Counter[str], failed: int, seed: int
) -> str:
    others = sum(total.values()) - kills(total)
    lines = [
        "# Reliability",
        "",
        "<!-- Written by `python -m tests.chaos --write docs/reliability.md` (`make chaos`). Do not edit. -->",
        "",
        "Whole runs of `shoal train` on CartPole whose processes are killed and stopped (SIGSTOP, up to 3 s) at",
        "random moments, from one seed; those of kind `rough` have an actor more behind a proxy, whose connections are",
        "cut, or go silent for up to 5 s. A run of kind `exact` must end with the weights of a run in peace, bit for",
        "bit, which it could not if anything acknowledged were lost or doubled. One of kind `rough` must reach 400",
        "in an evaluation. Of all: exit code 0, counters that never go back, no process, no shared memory, no socket,",
        "no temporary file and no half-written checkpoint left (sockets of a killed launcher go with one that starts a",
        "minute later or, where there were none yet, an hour).",
        "",
        f"{kills(total)} kills and {others} other faults in {len(rows)} runs, **{failed} runs failed**: "
        f"{_words(total)}. Seed {seed}, "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| run | seed | took | what was done | what failed |",
        "|---|---|---|---|---|",
    ]
    for name, own_seed, counts, took_s, wrong in rows:
        lines.append(f"| {name} | {own_seed} | {took_s:.0f} s | {_words(counts)} | {'; '.join(wrong) or '-'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
