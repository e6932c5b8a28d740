"""Running statistics, and options of what is learned from rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.algorithms.ppo import PPO, PPOConfig
from core.errors import ConfigError
from core.rl.networks import ActorCritic, PolicyNetwork
from core.rl.normalise import ReturnScale, RunningMoments
from core.rl.optim import flatten
from core.rl.settings import OnPolicySettings, PolicySettings
from core.types import Task
from tests.unit.unrolls import SPEC, batch, context, network_of

TASK = Task(seed=1, slot=0, slots=1, round=0)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rng, moments = np.random.default_rng(0), RunningMoments(3)
    parts = [rng.normal(5, 3, (n, 3)).astype(np.float32) for n in (1, 7, 40, 3)]
    for part in parts:
        valid = np.ones(len(part) + 2, np.float32)
        valid[:2] = 0
        moments.observe(
            torch.from_numpy(np.concatenate([np.full((2, 3), 1e6, np.float32), part])), torch.from_numpy(valid)
        )
    whole = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-4)
    assert float(moments.count) == len(whole)
    before = moments.mean.clone()
    moments.observe(torch.ones(2, 3), torch.zeros(2))
    assert torch.equal(moments.mean, before)
    assert float(moments(torch.full((1, 3), 1e9)).max()) == 10.0


def test_returns_run_on_from_one_unroll_to_the_next_and_end_at_resets() -> None:
    rng = np.random.default_rng(1)
    rewards, valid = rng.normal(size=(12, 2)).astype(np.float32), np.ones((12, 2), np.float32)
    valid[4, 0] = 0
    scale, sums, running = ReturnScale(0.9), [], np.zeros(2)
    for t in range(12):
        running = valid[t] * (0.9 * running + rewards[t])
        sums += [running[b] for b in range(2) if valid[t, b]]
    for part in (slice(0, 5), slice(5, 12)):
        scale.observe(torch.from_numpy(rewards[part] * valid[part]), torch.from_numpy(valid[part]))
    assert float(scale.moments.variance) == pytest.approx(np.var(sums), rel=1e-4)
    scaled = scale(torch.tensor([[1.0]]))
    assert float(scaled) == pytest.approx(1 / np.std(sums), rel=1e-3)


def test_statistics_are_published_with_the_network_and_used_by_it() -> None:
    algorithm = PPO(PPOConfig(hidden=(4,), normalise_observations=True, normalise_rewards=True))
    network, data = network_of(algorithm), batch()
    size = len(flatten(network).snapshot())
    before = network.policy(data["obs"])[0].detach().clone()
    algorithm.update(network, algorithm.state(network), data, context())
    other = algorithm.network(SPEC)
    flatten(other).load(flatten(network).snapshot())
    assert len(flatten(other).snapshot()) == size > len(flatten(network).params)
    torch.testing.assert_close(other.policy(data["obs"])[0], network.policy(data["obs"])[0])
    steps = data["obs"][:-1][data["valid"] == 1]
    moments = other.body.torso.moments
    assert moments is not None
    torch.testing.assert_close(moments.mean, steps.mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, network.policy(data["obs"])[0])


def test_rewards_are_clipped_to_their_sign_for_learning_only() -> None:
    network = ActorCritic(SPEC, OnPolicySettings(hidden=(4,), clip_rewards=True))
    assert network.rewards({"reward": torch.tensor([[-3.0, 0.0, 0.5]])}).tolist() == [[-1, 0, 1]]
    with pytest.raises(ConfigError, match="clip_rewards: rewards cannot be both"):
        OnPolicySettings(clip_rewards=True, normalise_rewards=True)


def test_ppo_anneals_what_it_is_told_to() -> None:
    from core.algorithms.ppo import annealed, falling

    config = PPOConfig(anneal_clip=True, anneal_entropy=True, clip=0.2, entropy_coefficient=0.1)
    half = annealed(config, 0.5)
    assert [half.clip, half.entropy_coefficient] == pytest.approx([0.1, 0.05])
    assert annealed(PPOConfig(), 0.5) == PPOConfig()
    assert (falling(3.0, True, 1.0), falling(3.0, False, 1.0)) == (0.0, 3.0)


def test_ppo_can_compute_advantages_anew_for_every_epoch() -> None:
    weights = []
    for anew in (True, False):
        algorithm = PPO(PPOConfig(hidden=(4,), epochs=3, recompute_advantages=anew, learning_rate=0.1))
        network = network_of(algorithm)
        algorithm.update(network, algorithm.state(network), batch(), context())
        weights.append(flatten(network).snapshot())
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


def test_a_policy_alone_acts_as_it_learns() -> None:
    network = PolicyNetwork(SPEC, PolicySettings(hidden=(4,), recurrent=3))
    data = batch()
    with torch.no_grad():
        policy, memory = network.act(data["obs"][0], None)
        torch.testing.assert_close(network.over(data)[0][0], policy[0])
    assert memory is not None
    assert memory.shape == (2, 6)
