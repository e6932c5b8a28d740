"""Distributions of every kind, heads, torsos, memory and running statistics."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import ConfigError
from core.rl.acting import from_env, sampling, to_env
from core.rl.distributions import (
    Categorical,
    Deterministic,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
    detached,
    divergence,
)
from core.rl.heads import PolicyHead
from core.rl.networks import ActorCritic
from core.rl.settings import PolicySettings
from core.rl.torsos import PackedInput, make_torso
from core.specs import ActionSpec, ArraySpec, EnvSpec, ObservationPart
from core.types import Task
from tests.unit.unrolls import BOX, SPEC

TASK = Task(seed=1, slot=0, slots=1, round=0)
MULTI = EnvSpec(
    "Multi-v0",
    SPEC.observation,
    ActionSpec("multi_discrete", ArraySpec((2,), "int64"), n=5, nvec=(2, 3), starts=(0, 7)),
)
WIDE = EnvSpec("Wide-v0", SPEC.observation, ActionSpec("box", ArraySpec((2,), "float32"), low=(-1, 0), high=(3, 1)))


# distributions


def test_several_choices_are_independent_softmaxes() -> None:
    logits = torch.tensor([[0.5, -0.5, 1.0, 0.0, 2.0]])
    both = MultiCategorical.from_logits(logits, (2, 3))
    one, two = Categorical.from_logits(logits[:, :2]), Categorical.from_logits(logits[:, 2:])
    total = 0.0
    for i, j in itertools.product(range(2), range(3)):
        log_prob = both.log_prob(torch.tensor([[i, j]]))
        torch.testing.assert_close(log_prob, one.log_prob(torch.tensor([i])) + two.log_prob(torch.tensor([j])))
        total += float(log_prob.exp())
    assert total == pytest.approx(1.0)
    torch.testing.assert_close(both.entropy(), one.entropy() + two.entropy())
    assert both.mode().tolist() == [[0, 2]]
    draws = both.sample(MultiCategorical.noise(np.random.default_rng(0), (4000, 1, 5)))
    shares = [(draws[:, 0, 0] == 0).float().mean(), (draws[:, 0, 1] == 2).float().mean()]
    np.testing.assert_allclose(shares, [one.log_probs.exp()[0, 0], two.log_probs.exp()[0, 2]], atol=0.03)


def squashed(mean: float = 0.3, log_std: float = -0.5) -> SquashedGaussian:
    return SquashedGaussian(
        torch.full((1, 1), mean), torch.full((1, 1), log_std), torch.tensor([1.0]), torch.tensor([2.0])
    )


def test_a_squashed_gaussians_density_adds_up_to_1_within_its_box() -> None:
    grid = torch.linspace(-1 + 1e-4, 3 - 1e-4, 20_001).view(-1, 1)
    density = squashed().log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1.0, abs=1e-3)
    draws = squashed().sample(SquashedGaussian.noise(np.random.default_rng(0), (20_000, 1)))
    assert float(draws.min()) > -1
    assert float(draws.max()) < 3
    below = float(torch.trapezoid(density[grid[:, 0] < 1.5], grid[grid[:, 0] < 1.5][:, 0]))
    assert float((draws < 1.5).float().mean()) == pytest.approx(below, abs=0.02)
    assert torch.isfinite(squashed().log_prob(torch.tensor([[-1.0], [3.0]]))).all()


PAIRS: list[tuple[Any, Any]] = [
    (
        Categorical.from_logits(torch.tensor([[0.5, 0.0, -1.0]])),
        Categorical.from_logits(torch.tensor([[0.0, 1.0, 0.0]])),
    ),
    (
        MultiCategorical.from_logits(torch.tensor([[0.5, 0.0, 1.0, 0.0, 0.0]]), (2, 3)),
        MultiCategorical.from_logits(torch.tensor([[0.0, 1.0, 0.0, 0.5, 0.0]]), (2, 3)),
    ),
    (
        DiagonalGaussian(torch.tensor([[0.0, 1.0]]), torch.tensor([0.1, -0.3])),
        DiagonalGaussian(torch.tensor([[0.5, 0.8]]), torch.tensor([0.3, -0.1])),
    ),
    (squashed(), squashed(0.6, -0.2)),
]


def wide(distribution: Any) -> Any:
    """The same one 40,000 times."""
    first, *rest = distribution
    return type(distribution)(first.expand(40_000, *first.shape[1:]), *rest)


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda d: type(d).__name__)
def test_kl_is_the_mean_log_ratio_of_samples(one: Distribution, other: Distribution) -> None:
    many = wide(one)
    actions = many.sample(many.noise(np.random.default_rng(1), many[0].shape))
    ratios = many.log_prob(actions) - wide(other).log_prob(actions)
    assert float(divergence(one, other)) == pytest.approx(float(ratios.mean()), abs=0.02)
    assert float(divergence(one, one)) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence(one, other)) > 0.01


def test_a_divergence_is_between_two_of_one_kind_and_detached_stops_gradients() -> None:
    with pytest.raises(TypeError, match="from a Categorical to a DiagonalGaussian"):
        divergence(PAIRS[0][0], PAIRS[2][0])
    policy = DiagonalGaussian(torch.zeros(1, 2, requires_grad=True), torch.zeros(2))
    assert not detached(policy).mean.requires_grad


def test_a_deterministic_policy_acts_and_has_no_density() -> None:
    policy = Deterministic(torch.tensor([[1.0, 2.0]]))
    assert policy.sample(policy.noise(np.random.default_rng(0), (1, 2))).tolist() == policy.mode().tolist() == [[1, 2]]
    assert policy.distance(torch.tensor([[0.0, 0.0]])).tolist() == [5.0]
    with pytest.raises(ConfigError, match="a deterministic policy has no log-probabilities"):
        policy.log_prob(torch.zeros(1, 2))


# heads


@pytest.mark.parametrize(
    ("spec", "kind", "outputs", "cls"),
    [
        (SPEC, "auto", 3, Categorical),
        (MULTI, "auto", 5, MultiCategorical),
        (WIDE, "auto", 2, DiagonalGaussian),
        (WIDE, "state_gaussian", 4, DiagonalGaussian),
        (WIDE, "squashed", 4, SquashedGaussian),
        (WIDE, "deterministic", 2, Deterministic),
    ],
)
def test_every_space_and_kind_gets_its_distribution(spec: EnvSpec, kind: Any, outputs: int, cls: type) -> None:
    head = PolicyHead(spec, kind)
    assert head.outputs == outputs
    made: Any = head(torch.zeros(4, outputs), torch.zeros(4, 3))
    assert type(made).__name__ == cls.__name__
    if cls in (SquashedGaussian, Deterministic):
        assert made.mode()[0].tolist() == [1.0, 0.5]  # the middle of the box


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (SPEC, "squashed", r"squashed is for actions in a box, Test-v0 has Discrete\(3\)"),
        (
            EnvSpec(
                "Free-v0", SPEC.observation, ActionSpec("box", ArraySpec((1,), "float32"), low=(-np.inf,), high=(1,))
            ),
            "squashed",
            "squashed needs bounds",
        ),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(spec: EnvSpec, kind: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PolicyHead(spec, kind)


def test_an_actor_critic_that_cannot_follow_a_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="use gaussian or squashed here"):
        ActorCritic(BOX, PolicySettings(distribution="deterministic"))


def test_gaussian_actions_begin_as_wide_as_is_asked_for() -> None:
    network = ActorCritic(BOX, PolicySettings(initial_log_std=-0.5))
    policy, _ = network(torch.zeros(2, *BOX.observation.shape))
    assert isinstance(policy, DiagonalGaussian)
    assert policy.log_std.tolist() == [-0.5] * policy.mean.shape[-1]
    with pytest.raises(ConfigError, match=r"initial_log_std: -0\.5 is for boxes, Test-v0 has Discrete"):
        PolicyHead(SPEC, "auto", initial_log_std=-0.5)
    with pytest.raises(ConfigError, match="initial_log_std: is for gaussian actions, a squashed policy has none"):
        PolicySettings(distribution="squashed", initial_log_std=-0.5)


def test_several_choices_travel_as_the_environments_own_numbers() -> None:
    actions = torch.tensor([[0, 2], [1, 0]])
    assert to_env(MULTI.action, actions).tolist() == [[0, 9], [1, 7]]
    assert from_env(MULTI.action, to_env(MULTI.action, actions)).tolist() == actions.tolist()
    policy = sampling(ActorCritic(MULTI, PolicySettings(hidden=(4,))), TASK, 8)
    step = policy(np.zeros((5, 3), np.float32), None)
    assert step.action.shape == (5, 2)
    assert set(step.action[:, 1].tolist()) <= {7, 8, 9}


MASKED = EnvSpec(
    "Masked-v0",
    ArraySpec((24,), "uint8"),
    ActionSpec("discrete", ArraySpec((), "int64"), n=3),
    (
        ObservationPart("velocity", ArraySpec((2,), "float32"), 0),
        ObservationPart("room", ArraySpec((), "int64"), 8, n=4),
        ObservationPart("action_mask", ArraySpec((3,), "uint8"), 16),
    ),
)


def packed(velocity: list[float], room: int, mask: list[int]) -> Any:
    obs = np.zeros(24, np.uint8)
    obs[:8].view(np.float32)[:], obs[8:16].view(np.int64)[:], obs[16:19] = velocity, room, mask
    return obs


def test_illegal_actions_have_no_probability_and_give_finite_gradients() -> None:
    network = ActorCritic(MASKED, PolicySettings(hidden=(4,)))
    obs = torch.from_numpy(np.stack([packed([0.5, 1], 2, [1, 0, 1]), packed([0, 0], 0, [0, 0, 1])]))
    policy, _ = network(obs)
    assert policy[0].exp()[:, 1].tolist() == [0, 0]
    assert policy[0].exp()[1].tolist() == [0, 0, 1]
    entropy = policy.entropy()
    assert float(entropy[1].detach()) == pytest.approx(0.0, abs=1e-6)
    (entropy.sum() + policy.log_prob(torch.tensor([0, 2])).sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.actor.parameters() if p.grad is not None)
    acting = sampling(network, TASK, 64)
    actions = np.stack([acting(obs.numpy(), None).action for _ in range(100)])
    assert set(actions[:, 0].tolist()) == {0, 2}
    assert set(actions[:, 1].tolist()) == {2}


# torsos


def test_packed_parts_are_features_side_by_side_without_the_mask() -> None:
    torso = make_torso(MASKED, "auto")
    assert isinstance(torso, PackedInput)
    obs = torch.from_numpy(packed([0.5, -1.0], 2, [1, 0, 1])).expand(2, 3, 24)
    assert torso(obs).shape == (2, 3, 6)
    assert torso(obs)[0, 0].tolist() == [0.5, -1.0, 0, 0, 1, 0]
