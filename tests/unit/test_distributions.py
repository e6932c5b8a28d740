import math

import numpy as np
import pytest
import torch

from core.rl.distributions import Categorical, DiagonalGaussian

CHI2_3_AT_1E_6 = 30.66  # quantile of chi-square with 3 degrees of freedom at 1 - 1e-6
LOGITS = torch.tensor([1.0, 0.0, -1.0, 0.5])


def chi_square(samples: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * samples.numel()
    return float(((torch.bincount(samples, minlength=len(expected)) - expected) ** 2 / expected).sum())


def test_categorical_agrees_with_torch() -> None:
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    actions = logits.flip(-1).argmax(-1)
    ours, theirs = Categorical.from_logits(logits), torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))


def test_categorical_stays_finite_and_fp32_at_extreme_logits() -> None:
    distribution = Categorical.from_logits(torch.tensor([[200.0, -200.0]], dtype=torch.bfloat16))
    assert distribution.log_probs.dtype == torch.float32
    assert float(distribution.entropy()) == 0.0


def test_categorical_samples_its_probabilities_and_a_wrong_sampler_would_be_seen() -> None:
    distribution = Categorical.from_logits(LOGITS.expand(20_000, 4))
    noise = Categorical.noise(np.random.default_rng(0), (20_000, 4))
    wanted = LOGITS.softmax(-1)
    assert chi_square(distribution.sample(noise), wanted) < CHI2_3_AT_1E_6
    wrong = (distribution.log_probs + noise.abs().sqrt() * noise.sign()).argmax(-1)
    assert chi_square(wrong, wanted) > CHI2_3_AT_1E_6


@pytest.fixture
def gaussian() -> DiagonalGaussian:
    return DiagonalGaussian(torch.tensor([[0.5, -1.0]]), torch.tensor([-0.5, 0.25]))


def test_gaussian_density_integrates_to_one_and_entropy_is_its_expectation(gaussian: DiagonalGaussian) -> None:
    axis = torch.linspace(-10, 10, 401)
    grid = torch.cartesian_prod(axis, axis)
    log_density = gaussian.log_prob(grid)
    cell = float(axis[1] - axis[0]) ** 2
    assert float(log_density.exp().sum()) * cell == pytest.approx(1, abs=1e-4)
    entropy = -float((log_density.exp() * log_density).sum()) * cell
    assert float(gaussian.entropy()) == pytest.approx(entropy, abs=1e-4)


def test_gaussian_agrees_with_torch_for_a_shared_and_a_state_dependent_deviation() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, actions = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    for log_std in (torch.tensor([0.1, -0.3, 0.0]), torch.randn(4, 3, generator=generator)):
        ours = DiagonalGaussian(mean, log_std)
        theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().expand(4, 3)), 1)
        torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
        torch.testing.assert_close(ours.entropy(), theirs.entropy())


def test_gaussian_samples_have_its_moments(gaussian: DiagonalGaussian) -> None:
    count = 40_000
    samples = gaussian.sample(DiagonalGaussian.noise(np.random.default_rng(2), (count, 2)))
    std = gaussian.log_std.exp()
    four_sigma = 4 * std / math.sqrt(count)
    assert ((samples.mean(0) - gaussian.mean[0]).abs() < four_sigma).all()
    assert ((samples.std(0) - std).abs() < four_sigma).all()
    assert torch.equal(gaussian.mode(), gaussian.mean)
