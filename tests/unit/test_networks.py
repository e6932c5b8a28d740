import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from core.errors import ConfigError
from core.rl import mlp
from core.rl.distributions import Categorical, DiagonalGaussian
from core.rl.mlp import MLP, Activation
from core.rl.networks import ActorCritic
from core.rl.qnetworks import QNetwork
from core.rl.settings import NetworkSettings, PolicySettings
from core.specs import ActionSpec, ArraySpec, EnvSpec

DISCRETE = ActionSpec("discrete", ArraySpec((), "int64"), n=3)
BOX = ActionSpec("box", ArraySpec((2,), "float32"), low=(-1.0, -1.0), high=(1.0, 1.0))


def spec(action: ActionSpec = DISCRETE, shape: tuple[int, ...] = (4,), dtype: str = "float32") -> EnvSpec:
    return EnvSpec("Test-v0", ArraySpec(shape, dtype), action)


def reference(network: MLP) -> nn.Sequential:
    """The same network from torch's own layers."""
    params = [p.detach().clone() for p in network.params()]
    layers: list[nn.Module] = []
    for weight, bias in zip(params[::2], params[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.Tanh() if network.activation == "tanh" else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("hidden", [(), (16,), (32, 24)])
def test_both_paths_of_the_mlp_equal_torchs_layers(
    monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...], fused: bool, activation: Activation
) -> None:
    if fused:
        assert mlp.HAS_ONEDNN, "this torch has lost the fused linear: the MLP is slow, core/rl/mlp.py needs a look"
    monkeypatch.setattr(mlp, "HAS_ONEDNN", fused)
    for limit in ("LEAST_FORWARD", "LEAST_GRAD", "LEAST_PRODUCT", "LEAST_TANH"):
        monkeypatch.setattr(mlp, limit, 0)
    torch.manual_seed(0)
    network = MLP((4, *hidden, 3), activation, 1.0)
    nn.init.normal_(network.params()[1])
    twin = reference(network)
    x, y = torch.randn(6, 5, 4, requires_grad=True), torch.randn(6, 5, 3)
    x_twin = x.detach().clone().requires_grad_()
    (network(x) * y).sum().backward()
    (twin(x_twin) * y).sum().backward()
    for ours, theirs in zip([x, *network.parameters()], [x_twin, *twin.parameters()], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), twin(x))


def test_which_path_is_taken_depends_on_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fused(activation: str, x: torch.Tensor, params: Any) -> list[torch.Tensor]:
        calls.append(len(x))
        return [torch.zeros(len(x), 3)]

    monkeypatch.setattr(mlp, "_layers", fused)
    network = MLP((4, 64, 64, 3), "tanh", 1.0)
    with torch.no_grad():
        for rows in (1, 2048):
            network(torch.zeros(rows, 4))
    assert calls == [2048]


def test_initial_weights_are_orthogonal_with_the_usual_gains() -> None:
    torch.manual_seed(0)
    both = ActorCritic(spec(), PolicySettings(hidden=(64, 64), activation="tanh", shared_trunk=True)).both.params()
    torch.testing.assert_close(both[2] @ both[2].T, 2 * torch.eye(64), rtol=1e-4, atol=1e-4)
    policy, value = both[4][:3], both[4][3:]
    torch.testing.assert_close(policy @ policy.T, 1e-4 * torch.eye(3), rtol=1e-4, atol=1e-8)
    assert float(value.detach().norm()) == pytest.approx(1, rel=0.2)
    assert all((bias == 0).all() for bias in both[1::2])


@pytest.mark.parametrize("shared_trunk", [True, False])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=str)
def test_policy_and_value_are_the_parts_of_forward(action: ActionSpec, shared_trunk: bool) -> None:
    torch.manual_seed(0)
    network = ActorCritic(spec(action), PolicySettings(hidden=(8,), activation="tanh", shared_trunk=shared_trunk))
    obs = torch.randn(5, 2, 4)
    distribution, value = network(obs)
    assert value.shape == (5, 2)
    assert distribution.entropy().shape == (5, 2)
    assert isinstance(distribution, Categorical if action is DISCRETE else DiagonalGaussian)
    for whole, part in zip(distribution, network.policy(obs), strict=True):
        torch.testing.assert_close(whole, part)
    torch.testing.assert_close(value, network.value(obs))


def test_the_same_global_seed_makes_the_same_network() -> None:
    networks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        networks.append(
            torch.cat(
                [
                    p.flatten()
                    for p in ActorCritic(
                        spec(), PolicySettings(hidden=(8,), activation="tanh", shared_trunk=False)
                    ).parameters()
                ]
            )
        )
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


def test_observations_of_any_shape_are_flattened_and_bytes_scaled() -> None:
    torch.manual_seed(0)
    network = QNetwork(
        spec(shape=(2, 3), dtype="uint8"), NetworkSettings(hidden=(8,), activation="relu"), dueling=False
    )
    obs = torch.randint(0, 256, (7, 2, 3), dtype=torch.uint8)
    torch.testing.assert_close(network(obs), network.layers(obs.view(7, 6) / 255))
    scalar = QNetwork(spec(shape=()), NetworkSettings(hidden=(8,), activation="relu"), dueling=False)
    assert scalar(torch.zeros(5)).shape == (5, 3)


def test_dueling_adds_a_value_to_centred_advantages() -> None:
    torch.manual_seed(0)
    network = QNetwork(spec(), NetworkSettings(hidden=(8,), activation="relu"), dueling=True)
    obs = torch.randn(6, 4)
    outputs = network.layers(obs)
    q = network(obs)
    torch.testing.assert_close(q.mean(-1), outputs[:, 0])
    for a, b in itertools.combinations(range(3), 2):
        torch.testing.assert_close(q[:, a] - q[:, b], outputs[:, 1 + a] - outputs[:, 1 + b])


def test_what_they_cannot_take_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"Test-v0.*float64"):
        ActorCritic(spec(dtype="float64"), PolicySettings(hidden=(8,), activation="tanh", shared_trunk=True))
    with pytest.raises(ConfigError, match=r"Test-v0.*discrete.*Box\(2,\).*ppo"):
        QNetwork(spec(BOX), NetworkSettings(hidden=(8,), activation="relu"), dueling=False)


def test_gaussian_deviation_starts_at_one_and_is_learned() -> None:
    network = ActorCritic(spec(BOX), PolicySettings(hidden=(8,), activation="tanh", shared_trunk=True))
    assert network.head.log_std.requires_grad
    distribution, _ = network(torch.zeros(1, 4))
    assert float(distribution.entropy().detach()) == pytest.approx(1 + math.log(2 * math.pi))
