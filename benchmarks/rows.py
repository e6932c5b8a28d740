"""From what the contestants did to the rows of the table, each with its bar. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import contestants as c
from benchmarks.figures import Value, count, median, pair_ratio, seconds, worst
from benchmarks.installer import HOW
from benchmarks.running import Result, Results

SAMPLE_FACTORY_DOCUMENTED = 22_000
"""Env steps/s that it reached on two cores, for where it is not installed."""
FIRST_UPDATE_S = 6.0
LEARNER_MB, ACTOR_MB = 700, 400


@dataclass(frozen=True)
class Row:
    """A line of the table. `passed` is None where nothing could be decided."""

    what: str
    ours: str
    bar: str
    passed: bool | None
    other: str = "-"
    ratio: str = "-"


@dataclass(frozen=True)
class Topic:
    """Rows that are asked for by one name, and the contestants that they need."""

    needs: Sequence[str]
    rows: Callable[[Results], list[Row]]


def column(results: Results, name: str, field: str) -> list[Value]:
    """A figure of every run of a contestant."""
    return [run.get(field) for run in results.get(name, ())]


def since_start(results: Results, name: str, field: str, without: str | None = None) -> list[Value]:
    """Seconds from the command to a moment in every run, less the seconds named `without`."""

    def took(run: Result) -> Value:
        moment = run.get(field)
        return None if moment is None else moment - run["start_unix_s"] - (run[without] if without else 0.0)

    return [took(run) for run in results.get(name, ())]


def solved(what: str, name: str, median_bar: int | None, worst_bar: int) -> Callable[[Results], list[Row]]:
    """Env steps to the first evaluation that passes."""
    bar = f"worst ≤ {worst_bar:,}" if median_bar is None else f"median ≤ {median_bar:,}, worst ≤ {worst_bar:,}"

    def rows(results: Results) -> list[Row]:
        values = column(results, name, "solved_at_env_steps")
        middle, last = median(values), worst(values)
        passed = last is not None and last <= worst_bar
        if median_bar is not None:
            passed = passed and middle is not None and middle <= median_bar
        ours = f"median {count(middle)}, worst {count(last)} of {len(values)} seeds"
        return [Row(f"{what}: env steps until solved", ours, bar, passed)]

    return rows


def compared(what: str, ours: Sequence[Value], others: Sequence[Value], at_least: float) -> Row:
    """Env steps/s against another's in the same minute. A failed run of ours counts as 0, one of the other's not."""
    if not others:
        return Row(what, count(median(ours)), f"≥ {at_least:g} x", None, f"not installed: run {HOW}")
    ours = [value or 0.0 for value in ours]
    ratio = pair_ratio(ours, others)
    if ratio is None:
        return Row(what, count(median(ours)), f"≥ {at_least:g} x", None, "failed")
    theirs = count(median([value for value in others if value is not None]))
    return Row(what, count(median(ours)), f"≥ {at_least:g} x", ratio >= at_least, theirs, f"{ratio:.2f} x")


def speed_ppo(results: Results) -> list[Row]:
    """Against the bare path, Stable-Baselines3 at its better number of threads, and Sample Factory."""
    what = "PPO at speed, env steps/s, against "
    ours = column(results, c.SHOAL_PPO_FAST, "env_steps_per_s")
    bare = column(results, c.LIMIT, "env_steps_per_s")
    sb3 = max((column(results, name, "env_steps_per_s") for name in c.SB3_PPO_FAST), key=lambda v: median(v) or 0.0)
    factory = column(results, c.SAMPLE_FACTORY, "env_steps_per_s")
    last = compared(f"{what}Sample Factory", ours, factory or [SAMPLE_FACTORY_DOCUMENTED] * len(ours), 4.0)
    if not factory:
        last = replace(last, other=f"{last.other} (documented; not installed: run {HOW})")
    return [
        compared(f"{what}the bare path", ours, bare, 0.6),
        compared(f"{what}Stable-Baselines3", ours, sb3, 2.0),
        last,
        *solved("PPO at speed", c.SHOAL_PPO_FAST_SOLVES, None, 300_000)(results),
    ]


def speed_dqn(results: Results) -> list[Row]:
    """Against Stable-Baselines3 at the same settings."""
    ours = column(results, c.SHOAL_DQN_ZOO, "env_steps_per_s")
    sb3 = column(results, c.SB3_DQN_ZOO, "env_steps_per_s")
    return [compared("DQN, env steps/s, against Stable-Baselines3", ours, sb3, 1.2)]


def speed_a2c(results: Results) -> list[Row]:
    """Against Stable-Baselines3 at each one's own settings, and at the same ones."""
    return [
        _against(results, "A2C at each one's own settings", c.SHOAL_A2C, c.SB3_A2C, 10.0),
        _against(results, "A2C at equal settings", c.SHOAL_A2C_WIDE, c.SB3_A2C_WIDE, 2.0),
    ]


def speed_pong(results: Results) -> list[Row]:
    """Against Stable-Baselines3 from pixels."""
    return [
        _against(results, "Pong, PPO with 4 epochs", c.SHOAL_PONG_PPO, c.SB3_PONG_PPO, 2.0),
        _against(results, "Pong, A2C", c.SHOAL_PONG_A2C, c.SB3_PONG_A2C, 2.5),
        _against(results, "Pong, IMPALA, against its A2C", c.SHOAL_PONG_IMPALA, c.SB3_PONG_A2C, 2.5),
    ]


def speed_lander(results: Results) -> list[Row]:
    """Against the environment and the policy's forward alone."""
    return [_against(results, "LunarLander, PPO", c.SHOAL_LANDER, c.BARE_LANDER, 0.7, "the bare environment")]


def _against(
    results: Results, what: str, ours: str, other: str, at_least: float, whom: str = "Stable-Baselines3"
) -> Row:
    mine, theirs = (column(results, name, "env_steps_per_s") for name in (ours, other))
    return compared(f"{what}, env steps/s, against {whom}", mine, theirs, at_least)


def wall_ppo(results: Results) -> list[Row]:
    """Seconds from the command to solved; the time of evaluations is taken out for both."""
    ours = since_start(results, c.SHOAL_PPO, "solved_unix_s", "evaluation_until_solved_s")
    others = since_start(results, c.SB3_PPO, "solved_unix_s", "evaluation_s")
    start = median(since_start(results, c.SHOAL_PPO, "first_update_unix_s"))
    their_start = median(since_start(results, c.SB3_PPO, "first_update_unix_s"))
    mine, theirs, ratio = median(ours), median(others), pair_ratio(ours, others)
    row = Row(
        "PPO, from the command to solved, against Stable-Baselines3",
        f"{seconds(mine)} (first update at {seconds(start)})",
        f"≤ its + {seconds(start)} of process start",
        mine is not None and start is not None and (theirs is None or mine <= theirs + start),
        f"{seconds(theirs)} (first update at {seconds(their_start)})",
        "-" if ratio is None else f"{ratio:.2f} x",
    )
    if others and not all("error" in run for run in results[c.SB3_PPO]):
        return [row]
    return [replace(row, other="failed" if others else f"not installed: run {HOW}", passed=None)]


def first_update(results: Results) -> list[Row]:
    """Seconds from the command to the end of the first updates."""
    rows = []
    for what, name in (("PPO", c.SHOAL_PPO), ("DQN", c.SHOAL_DQN)):
        value = median(since_start(results, name, "first_update_unix_s"))
        passed = value is not None and value <= FIRST_UPDATE_S
        rows.append(
            Row(f"{what}, from the command to the first update", seconds(value), f"≤ {FIRST_UPDATE_S:g} s", passed)
        )
    return rows


def memory(results: Results) -> list[Row]:
    """The most that was ever resident of the largest process of each kind."""
    learners = {"PPO": peak(results, c.MEMORY_PPO, "learner"), "DQN": peak(results, c.MEMORY_DQN_EMBEDDED, "learner")}
    actors = {"PPO": peak(results, c.MEMORY_PPO, "actor"), "DQN": peak(results, c.MEMORY_DQN, "actor")}
    replay = peak(results, c.MEMORY_DQN, "replay")
    return [
        _resident("learner with embedded table", learners, LEARNER_MB),
        _resident("each actor", actors, ACTOR_MB),
        replace(_resident("replay server, DQN", {"": replay}, 0), bar="-", passed=None),
    ]


def peak(results: Results, name: str, role: str) -> Value:
    """In MB, over all runs."""
    values = [run.get("peak_mb", {}).get(role) for run in results.get(name, ())]
    return max((value for value in values if value is not None), default=None)


def _resident(what: str, peaks: Mapping[str, Value], bar_mb: int) -> Row:
    known = [value for value in peaks.values() if value is not None]
    passed = max(known) <= bar_mb if len(known) == len(peaks) else None
    shown = ", ".join(f"{name} {count(value, 'MB')}".strip() for name, value in peaks.items() if value is not None)
    return Row(f"peak resident memory, {what}", shown or "not measured (needs Linux)", f"≤ {bar_mb} MB", passed)


TOPICS: Mapping[str, Topic] = {
    "solve-ppo": Topic([c.SHOAL_PPO], solved("PPO, default preset", c.SHOAL_PPO, 40_000, 100_000)),
    "solve-dqn": Topic([c.SHOAL_DQN], solved("DQN, default preset", c.SHOAL_DQN, 60_000, 100_000)),
    "speed-ppo": Topic(
        [c.SHOAL_PPO_FAST, c.LIMIT, *c.SB3_PPO_FAST, c.SAMPLE_FACTORY, c.SHOAL_PPO_FAST_SOLVES], speed_ppo
    ),
    "wall-ppo": Topic([c.SHOAL_PPO, c.SB3_PPO], wall_ppo),
    "speed-dqn": Topic([c.SHOAL_DQN_ZOO, c.SB3_DQN_ZOO], speed_dqn),
    "speed-a2c": Topic([c.SHOAL_A2C, c.SB3_A2C, c.SHOAL_A2C_WIDE, c.SB3_A2C_WIDE], speed_a2c),
    "speed-pong": Topic(
        [c.SHOAL_PONG_PPO, c.SB3_PONG_PPO, c.SHOAL_PONG_A2C, c.SB3_PONG_A2C, c.SHOAL_PONG_IMPALA], speed_pong
    ),
    "speed-lander": Topic([c.SHOAL_LANDER, c.BARE_LANDER], speed_lander),
    "first-update": Topic([c.SHOAL_PPO, c.SHOAL_DQN], first_update),
    "memory": Topic([c.MEMORY_PPO, c.MEMORY_DQN_EMBEDDED, c.MEMORY_DQN], memory),
}


def rows_of(results: Results, topics: Sequence[str]) -> list[Row]:
    """The rows of those topics in the table's order."""
    return [row for name, topic in TOPICS.items() if name in topics for row in topic.rows(results)]
