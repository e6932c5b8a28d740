"""Every algorithm on small tasks whose best return is known, with a budget in env steps; seconds in all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.learning.inprocess import Chain, Identity, IdentityBox, Lanes, Memory, Small, learned

FAST: dict[str, Any] = {"hidden": [16]}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("reinforce", {"max_rows": 10}, 12_000),
    ("reinforce", {"max_rows": 10, "baseline": "none", "reward_to_go": False}, 40_000),
    ("reinforce", {"max_rows": 10, "baseline": "time"}, 12_000),
    ("reinforce", {"max_rows": 10, "baseline": "constant"}, 20_000),
    ("actor_critic", {"learning_rate": 1e-2}, 12_000),
    ("actor_critic", {"learning_rate": 1e-2, "critic": "q"}, 20_000),
    ("a2c", {"learning_rate": 1e-2, "optimiser": "adam"}, 12_000),
    ("a2c", {"learning_rate": 1e-2, "shared_trunk": True}, 20_000),
    ("a3c", {"learning_rate": 1e-2}, 20_000),
    (
        "a3c",
        {
            "head": "q",
            "learning_rate": 3e-2,
            "unroll_length": 4,
            "gamma": 0.5,
            "epsilon_anneal_env_steps": 5_000,
            "target_update_interval": 500,
            "max_grad_norm": None,
        },
        20_000,
    ),
    ("impala", {"learning_rate": 1e-2}, 12_000),
    ("npg", {"unroll_length": 32}, 20_000),
    ("trpo", {"unroll_length": 32, "max_kl": 0.05}, 20_000),
    ("ppo", {"unroll_length": 32, "minibatch_size": 128, "learning_rate": 1e-2}, 10_000),
    (
        "ppo",
        {"unroll_length": 32, "minibatch_size": 128, "learning_rate": 1e-2, "normalise_observations": True},
        10_000,
    ),
    ("es", {"max_rows": 10, "hidden": [], "episodes": 4, "learning_rate": 0.1}, 40_000),
    ("finite_difference", {"max_rows": 10, "hidden": [], "episodes": 4, "step": 0.5, "learning_rate": 1.0}, 60_000),
    (
        "dagger",
        {"expert": "tests.learning.test_small_tasks:shown", "updates_per_env_step": 0.2, "min_size": 256},
        3_000,
    ),
]


def shown(obs: Any) -> Any:
    """The expert of Identity."""
    return obs.argmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "env_steps"), CASES)
def test_the_action_that_is_shown_is_learned(name: str, settings: dict[str, Any], env_steps: int) -> None:
    assert learned(name, {**FAST, **settings}, Identity, env_steps) >= 7.6  # of 8


DQN: dict[str, Any] = {
    "hidden": [32],
    "learning_rate": 3e-3,
    "batch_size": 32,
    "min_size": 200,
    "batches_per_round": 4,
    "updates_per_env_step": 0.25,
    "target_update_interval": 50,
    "epsilon_anneal_env_steps": 3_000,
    "gamma": 0.9,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"replay": "none", "target_update_interval": 0, "epsilon_end": 0.3, "unroll_length": 1, "learning_rate": 1e-2},
    {"target_update_interval": 0},
    {"double": True, "dueling": True, "n_step": 3},
    {"distribution": "c51", "value_min": 0.0, "value_max": 10.0, "atoms": 21},
    {"distribution": "qr", "quantiles": 11},
    {"noisy": True, "unroll_length": 4},
    {"replay": "prioritised", "actor_priorities": True, "epsilon_per_actor": True},
    {"replay": "prioritised", "distribution": "c51", "value_min": 0.0, "value_max": 10.0, "noisy": True, "double": True,
     "dueling": True, "n_step": 3},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(map(str, s)) or "plain")
def test_dqn_goes_down_the_chain_past_the_nearer_reward(settings: dict[str, Any]) -> None:
    assert learned("dqn", {**DQN, **settings}, Chain, 8_000) == 10.0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "distribution"), [("ppo", "auto"), ("ppo", "squashed"), ("a2c", "state_gaussian")])
def test_a_number_that_is_shown_is_hit(name: str, distribution: str) -> None:
    settings = {"hidden": [32], "distribution": distribution, "learning_rate": 2e-3, "entropy_coefficient": 0.0}
    if name == "a2c":
        settings |= {"optimiser": "adam", "normalise_advantages": True, "learning_rate": 5e-3}
    else:
        settings |= {"unroll_length": 32, "minibatch_size": 128, "epochs": 8}
    found = learned(name, {**settings, "gamma": 0.0}, IdentityBox, 30_000)
    assert found >= -0.8  # over 8 steps; standing still in the middle costs 5.3


PPO_MEMORY: dict[str, Any] = {
    "hidden": [16],
    "unroll_length": 24,
    "minibatch_size": 96,
    "learning_rate": 1e-2,
    "entropy_coefficient": 0.01,
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_memory_answers_what_a_policy_without_one_can_only_guess() -> None:
    assert learned("ppo", {**PPO_MEMORY, "recurrent": 16}, Memory, 25_000) >= 0.95
    assert learned("ppo", PPO_MEMORY, Memory, 10_000) <= 0.8


LABELS = 1_500


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dagger_beats_cloning_at_the_same_number_of_labels_where_the_student_drifts(seed: int) -> None:
    """Cloning here is the same learner with the expert driving to the end: labels of the expert's own states alone."""
    settings = {
        "expert": "tests.learning.inprocess:driver",
        "hidden": [64],
        "learning_rate": 3e-3,
        "anneal_learning_rate": False,
        "unroll_length": 24,
        "min_size": 256,
        "updates_per_env_step": 0.5,
    }
    cloned = learned("dagger", {**settings, "beta_anneal_env_steps": 10**9}, Lanes, LABELS, envs=4, seed=seed)
    dagger = learned("dagger", {**settings, "beta_anneal_env_steps": 500}, Lanes, LABELS, envs=4, seed=seed)
    assert dagger > cloned + 1
    assert dagger > 55  # of about 57


@pytest.mark.slow
@pytest.mark.parametrize("env", [Identity])
def test_without_learning_nothing_is_learned(env: type[Small]) -> None:
    """The wrong twin of all of the above."""
    settings = {**FAST, "unroll_length": 32, "minibatch_size": 128, "learning_rate": 1e-12}
    assert learned("ppo", settings, env, 10_000) <= 6
