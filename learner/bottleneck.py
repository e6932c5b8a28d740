"""Which part holds a run back, from where its time goes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("learner", "actors", "replay", "window", "network")
HIGH = 0.5
"""A share of time above which a part counts as waiting rather than working."""


@dataclass(frozen=True)
class Shares:
    """Shares of wall time in [0, 1]: of the learner's thread, and of the actors' (all of them together)."""

    learner_waits: float
    actors_act: float
    actors_wait_weights: float
    actors_wait_acks: float
    limiter_holds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The part that holds the run back, and what would help."""

    part: str
    advice: str


def judge(shares: Shares) -> Verdict:
    """Name the part: `learner`, `actors`, `replay`, `window` or `network`."""
    waits, acts = f"{100 * shares.learner_waits:.0f} %", f"{100 * shares.actors_act:.0f} %"
    if shares.learner_waits < HIGH:
        return Verdict(
            "learner",
            f"the learner computes {100 - 100 * shares.learner_waits:.0f} % of the time, actors wait "
            f"{100 * shares.actors_wait_weights:.0f} % for weights: a larger minibatch, fewer epochs, a GPU or more "
            "learner_threads help; more actors do not",
        )
    if shares.limiter_holds > HIGH and shares.actors_act < HIGH:
        return Verdict(
            "replay",
            f"the learner waits {waits} of the time, mostly for the rate limiter: more updates_per_env_step would "
            "use it, more env steps would feed it",
        )
    if shares.actors_act >= HIGH:
        return Verdict(
            "actors",
            f"the learner waits {waits} of the time and the actors act {acts}: more --actors, or more "
            "--envs-per-actor, help",
        )
    if shares.actors_wait_acks >= HIGH:
        return Verdict(
            "window",
            f"the learner waits {waits} of the time, the actors wait {100 * shares.actors_wait_acks:.0f} % for "
            "acknowledgements: a larger network.window_chunks, or a longer unroll, helps",
        )
    return Verdict(
        "network",
        f"the learner waits {waits} of the time, the actors act only {acts}: both wait for each other's messages; a "
        "longer unroll, or policy_lag 1, helps",
    )
