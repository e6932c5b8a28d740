"""Torsos: images in both precisions, Pong, registered ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from core.algorithms.ppo import PPOConfig
from core.errors import ConfigError
from core.rl import torsos
from core.rl.images import NatureCNN, PongInput, filters_of_blocks, in_blocks
from core.rl.networks import ActorCritic
from core.rl.precision import LEAST_ROWS, dtype_of
from core.rl.settings import PolicySettings
from core.rl.torso import Torso
from core.rl.torsos import FlatInput, make_torso
from core.specs import ArraySpec, EnvSpec
from tests.unit.unrolls import SPEC


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
