"""Is it learning? Return, length, losses and what else the algorithm says."""

from __future__ import annotations

from deploy.grafana.panels import Board, Panel, Query, Row
from deploy.grafana.queries import newest, rate, series

NAMED = ("loss|.*_loss", "grad_norm", "entropy", "kl", "epsilon", "learning_rate")


def _said(what: str) -> list[Query]:
    """What the algorithm says of its newest round, by name; as `series` wants it."""
    return [Query(newest("algorithm", "name", name=what), "{{name}}")]


BOARD = Board(
    "Training",
    "Is it learning? Everything is the learner's.",
    [
        Row(
            "Progress",
            [
                Panel(
                    "Return",
                    "Sum of raw rewards: mean of the last 100 training episodes, and of the newest greedy evaluation.",
                    "short",
                    [Query(newest("mean_return"), "training"), Query(newest("eval_return"), "evaluation")],
                    width=12,
                ),
                Panel(
                    "Length",
                    "Env steps of an episode, mean of the last 100 training episodes.",
                    "short",
                    [Query(newest("mean_length"), "env steps")],
                    width=12,
                ),
                Panel(
                    "Env steps",
                    "Env steps that the learner has learned from or stored.",
                    "short",
                    [Query(f"max({series('env_steps')})", "env steps")],
                    kind="stat",
                    width=6,
                ),
                Panel(
                    "Version",
                    "Newest version that was published.",
                    "short",
                    [Query(newest("version"), "version")],
                    kind="stat",
                    width=6,
                ),
                Panel(
                    "Updates",
                    "Optimiser steps a second.",
                    "ops",
                    [Query(rate("updates"), "updates")],
                    width=6,
                ),
                Panel(
                    "Episodes",
                    "Training episodes that ended, a second.",
                    "ops",
                    [Query(rate("episodes"), "episodes")],
                    width=6,
                ),
            ],
        ),
        Row(
            "The algorithm, of its newest round",
            [
                Panel("Losses", "Losses, as the algorithm names them.", "short", _said(f"~{NAMED[0]}"), width=12),
                Panel(
                    "Gradient norm",
                    "Norm of the gradient before it is clipped. What grows without end will diverge.",
                    "short",
                    _said("grad_norm"),
                    width=12,
                ),
                Panel(
                    "Entropy",
                    "Of the policy, in nats. Near 0 it explores no more. Absent where the policy has none (DQN).",
                    "short",
                    _said("entropy"),
                ),
                Panel(
                    "KL",
                    "Divergence of the new policy from the one that acted, in nats (PPO, NPG, TRPO).",
                    "short",
                    _said("kl"),
                ),
                Panel(
                    "Epsilon",
                    "Share of random actions (DQN); 0 with noisy layers.",
                    "percentunit",
                    _said("epsilon"),
                ),
                Panel(
                    "Learning rate",
                    "Where it is annealed, its value now.",
                    "short",
                    _said("learning_rate"),
                ),
                Panel(
                    "Others",
                    "Whatever else the algorithm says, by its names.",
                    "short",
                    _said(f"!~{'|'.join(NAMED)}"),
                ),
                Panel(
                    "Diverged",
                    "1 once a loss, or what else the algorithm says, was not finite; the run ends with it.",
                    "short",
                    [Query(newest("diverged"), "diverged")],
                    kind="stat",
                ),
            ],
        ),
    ],
)
