"""Distributions of every kind, heads, torsos, memory and running statistics."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from core.algorithms.ppo import PPO, PPOConfig
from core.algorithms.signature import item_signature
from core.errors import ConfigError
from core.rl import torsos
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
from core.rl.images import NatureCNN, PongInput, filters_of_blocks, in_blocks
from core.rl.lstm import LSTM
from core.rl.networks import ActorCritic, PolicyNetwork
from core.rl.normalise import ReturnScale, RunningMoments
from core.rl.optim import flatten
from core.rl.precision import LEAST_ROWS, dtype_of
from core.rl.settings import OnPolicySettings, PolicySettings
from core.rl.torso import Torso
from core.rl.torsos import FlatInput, PackedInput, make_torso
from core.specs import ActionSpec, ArraySpec, EnvSpec, ObservationPart
from core.types import Task
from tests.unit.unrolls import BOX, SPEC, batch, context, network_of

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


def image(shape: tuple[int, ...] = (4, 84, 84)) -> EnvSpec:
    return EnvSpec("Image-v0", ArraySpec(shape, "uint8"), SPEC.action)


@pytest.mark.parametrize(("height", "width"), [(84, 84), (37, 42), (96, 51)])
def test_the_first_convolution_over_blocks_is_the_one_over_pixels(height: int, width: int) -> None:
    images = torch.randint(0, 256, (3, 2, height, width), dtype=torch.uint8)
    weight = torch.randn(5, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    plain = functional.conv2d(images.double(), weight, stride=4)
    blocks = functional.conv2d(in_blocks(images).double(), filters_of_blocks(weight))
    torch.testing.assert_close(blocks, plain)
    of_plain, of_blocks = (torch.autograd.grad(y.sin().sum(), weight)[0] for y in (plain, blocks))
    torch.testing.assert_close(of_blocks, of_plain)


def test_bf16_is_float32_up_to_its_eight_bits_and_gradients_stay_float32() -> None:
    settings = PPOConfig(network="nature", hidden=(32,), shared_trunk=True, precision="bfloat16")
    torch.manual_seed(1)
    obs = torch.randint(0, 256, (16, 4, 84, 84), dtype=torch.uint8)
    torch.manual_seed(1)
    network = ActorCritic(image(), settings)
    torch.manual_seed(1)
    exact = ActorCritic(image(), replace(settings, precision="float32"))
    found, wanted = network.value(obs), exact.value(obs)
    assert found.dtype == wanted.dtype == torch.float32
    assert 0 < float((found - wanted).detach().abs().max()) < 0.05 * float(wanted.detach().abs().max())
    found.square().sum().backward()
    wanted.square().sum().backward()
    for name, parameter in network.named_parameters():
        gradient, expected = parameter.grad, exact.get_parameter(name).grad
        assert gradient is not None
        assert expected is not None
        assert gradient.dtype == torch.float32
        assert float((gradient - expected).norm()) < 0.1 * float(expected.norm()) + 1e-6, name


def test_few_rows_without_a_gradient_stay_float32() -> None:
    with torch.no_grad():
        assert dtype_of("bfloat16", LEAST_ROWS - 1, torch.device("cpu")) == torch.float32
        assert dtype_of("bfloat16", LEAST_ROWS, torch.device("cpu")) == torch.bfloat16
    assert dtype_of("bfloat16", 1, torch.device("cpu")) == torch.bfloat16
    assert dtype_of("float32", 1000, torch.device("cpu")) == torch.float32


def test_images_get_the_nature_network_by_themselves() -> None:
    torso = make_torso(image(), "auto")
    assert isinstance(torso, NatureCNN)
    assert torso.size == 3136
    obs = torch.randint(0, 256, (2, 3, 4, 84, 84), dtype=torch.uint8)
    assert torso(obs).shape == (2, 3, 3136)
    assert torso(obs).dtype in (torch.float32, torch.bfloat16)
    torso.compute_in("float32")
    assert torso(obs).dtype == torch.float32
    assert isinstance(make_torso(SPEC, "auto"), FlatInput)
    with pytest.raises(ConfigError, match="too small for the nature network"):
        make_torso(image((1, 20, 20)), "nature")
    with pytest.raises(ConfigError, match=r"nature network takes images .* use network flat"):
        make_torso(SPEC, "nature")


def test_the_pong_network_sees_what_moved() -> None:
    torso = make_torso(image((2, 80, 80)), "pong")
    assert isinstance(torso, PongInput)
    obs = torch.full((1, 2, 80, 80), 87, dtype=torch.uint8)
    obs[0, 0, 3, 4] = obs[0, 1, 3, 5] = 236  # the ball, before and after
    seen = torso(obs)[0].view(80, 80)
    assert (seen[3, 4], seen[3, 5], seen.abs().sum()) == (-1, 1, 2)
    with pytest.raises(ConfigError, match=r"set env_kwargs\.stack_num to 2"):
        make_torso(image((1, 80, 80)), "pong")


def test_a_registered_torso_is_used_by_name_and_a_wrong_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torsos, "TORSOS", dict(torsos.TORSOS))

    class Twice(Torso):
        def __init__(self, spec: EnvSpec) -> None:
            super().__init__()
            self.size = 2 * spec.observation.size

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.cat((obs, obs), -1)

    torsos.register("twice", Twice)
    torsos.register("twice", Twice)
    network = ActorCritic(SPEC, PolicySettings(network="twice", hidden=(4,)))
    assert network.actor.inputs == 6
    with pytest.raises(ConfigError, match="must be a Python name that no other network has"):
        torsos.register("flat", Twice)
    torsos.register("none", lambda spec: torch.nn.Identity())  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match=r"none made Identity, a core\.rl\.torsos\.Torso"):
        make_torso(SPEC, "none")
    with pytest.raises(ConfigError, match="did you mean 'nature'"):
        make_torso(SPEC, "natur")


# memory


@pytest.mark.parametrize("shared", [True, False])
def test_a_memory_along_an_unroll_equals_a_step_by_step_loop(shared: bool) -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, shared_trunk=shared))
    network, data = network_of(algorithm), batch()
    start = torch.from_numpy(np.random.default_rng(4).normal(size=(2, network.memory)).astype(np.float32))
    assert network.memory == (10 if shared else 20)
    with torch.no_grad():
        outputs = network.over({**data, "memory": start.unsqueeze(0)})
        memory = start
        for t in range(7):
            policy, after = network.act(data["obs"][t], memory)
            if t < 6:
                torch.testing.assert_close(outputs.policy[0][t], policy[0])
                memory = data["valid"][t].float().unsqueeze(1) * after
        torch.testing.assert_close(network.values({**data, "memory": start.unsqueeze(0)}), outputs.values_TB)
    assert not torch.allclose(outputs.policy[0][0], network.over(data).policy[0][0].detach())


def test_one_lstm_step_is_torchs() -> None:
    ours, theirs = LSTM(3, 4), torch.nn.LSTMCell(3, 4)
    theirs.weight_ih.data, theirs.weight_hh.data = ours.of_input.data, ours.of_outputs.data
    theirs.bias_ih.data, theirs.bias_hh.data = ours.bias.data, torch.zeros(16)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    outputs, memory = ours.step(x, torch.cat((h, c), -1))
    wanted_h, wanted_c = theirs(x, (h, c))
    torch.testing.assert_close(outputs, wanted_h)
    torch.testing.assert_close(memory, torch.cat((wanted_h, wanted_c), -1))


def test_ppo_learns_with_a_memory_and_keeps_unrolls_together() -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, epochs=2, minibatch_size=6))
    network = network_of(algorithm)
    data = {**batch(), "memory": torch.zeros(1, 2, network.memory)}
    result = algorithm.update(network, algorithm.state(network), data, context())
    assert result.updates == 4  # two epochs of two columns, each a minibatch


def test_the_memorys_column_has_one_row_whatever_the_unrolls_length() -> None:
    algorithm = PPO(PPOConfig(hidden=(8,), recurrent=5, unroll_length=9))
    signature = item_signature(algorithm, algorithm.network(SPEC), SPEC, 4)
    assert signature.max_rows == 9
    assert signature.columns["memory"].extra_rows == -8
    assert signature.columns["memory"].array == ArraySpec((20,), "float32")


def test_a_policy_with_a_memory_cannot_be_asked_for_single_rows() -> None:
    with pytest.raises(ConfigError, match="acts step by step"):
        ActorCritic(SPEC, PolicySettings(recurrent=4))(torch.zeros(2, 3))


# running statistics


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
