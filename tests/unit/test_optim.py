import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import ConfigError, WeightsCorruptError
from core.rl.optim import ALIGNMENT, Adam, Optimiser, flatten, make_optimiser


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return outputs


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return Net()


def values(network: nn.Module) -> list[torch.Tensor]:
    return [t.detach().clone() for t in (*network.parameters(), *network.buffers())]


def test_flattening_changes_no_value_and_makes_every_tensor_a_view(network: Net) -> None:
    before = values(network)
    flat = flatten(network)
    for old, new in zip(before, values(network), strict=True):
        assert torch.equal(old, new)
    flat.data.fill_(7.0)
    assert all((t == 7).all() for t in values(network))
    assert all(t.data_ptr() % (4 * ALIGNMENT) == flat.data.data_ptr() % (4 * ALIGNMENT) for t in network.parameters())


def test_flattening_is_idempotent_until_the_network_moves(network: Net) -> None:
    flat = flatten(network)
    assert flatten(network) is flat
    network.double().float()  # as a move to another device would, this gives every tensor a new home
    assert flatten(network) is not flat
    flatten(network).data.zero_()
    assert all((t == 0).all() for t in values(network))


def test_snapshot_is_a_copy_that_another_network_loads(network: Net) -> None:
    snapshot = flatten(network).snapshot()
    assert snapshot.dtype == np.float32
    other = Net()
    flatten(other).load(np.frombuffer(snapshot.tobytes(), np.float32))  # read-only, as it comes off the wire
    assert all(torch.equal(a, b) for a, b in zip(values(network), values(other), strict=True))
    before = snapshot.copy()
    flatten(network).data.zero_()
    assert (snapshot == before).all()


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros((2, 2), np.float32)])
def test_weights_of_another_size_are_refused(network: Net, wrong: np.ndarray[Any, Any]) -> None:
    with pytest.raises(WeightsCorruptError, match="another network"):
        flatten(network).load(wrong)


def test_weights_of_another_dtype_are_refused(network: Net) -> None:
    flat = flatten(network)
    with pytest.raises(WeightsCorruptError, match="float64"):
        flat.load(flat.snapshot().astype(np.float64))


def test_the_manifest_tells_networks_apart(network: Net) -> None:
    manifest = flatten(network).manifest()
    assert manifest == flatten(Net()).manifest()
    renamed, reshaped = Net(), Net()
    renamed.third = renamed.second
    del renamed.second
    reshaped.first = nn.Linear(4, 5)
    assert len({manifest, flatten(renamed).manifest(), flatten(reshaped).manifest()}) == 3


def test_tensors_of_another_dtype_are_refused_by_name(network: Net) -> None:
    network.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"seen.*int64"):
        flatten(network)


@pytest.mark.parametrize("max_grad_norm", [None, 0.1, 100.0])
def test_three_steps_equal_torchs_adam_and_clipping(network: Net, max_grad_norm: float | None) -> None:
    twin = copy.deepcopy(network)
    theirs = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-5)
    assert_three_steps_equal(network, Adam(network, eps=1e-5), twin, theirs, max_grad_norm)


def test_three_steps_equal_torchs_rmsprop_and_differ_from_the_papers(network: Net) -> None:
    twin, papers = copy.deepcopy(network), copy.deepcopy(network)
    theirs = torch.optim.RMSprop(twin.parameters(), lr=0.01, alpha=0.99, eps=1e-5)
    assert_three_steps_equal(network, make_optimiser("rmsprop_torch", network, 1e-5), twin, theirs, 0.5)
    with pytest.raises(AssertionError):
        assert_three_steps_equal(papers, make_optimiser("rmsprop", papers, 1e-5), twin, theirs, 0.5)


def assert_three_steps_equal(
    network: Net, ours: Optimiser, twin: Net, theirs: torch.optim.Optimizer, max_grad_norm: float | None
) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(7, 3, generator=generator)
        norm = ours.step(network(x).square().mean(), 0.01, max_grad_norm)
        theirs.zero_grad()
        twin(x).square().mean().backward()
        limit = float("inf") if max_grad_norm is None else max_grad_norm
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(twin.parameters(), limit))
        theirs.step()
    for a, b in zip(values(network), values(twin), strict=True):
        torch.testing.assert_close(a, b)
    assert network.get_buffer("scale").tolist() == [2.0] * 4


def test_gaps_between_tensors_stay_zero(network: Net) -> None:
    optimiser = Adam(network)
    optimiser.step(network(torch.ones(2, 3)).sum(), 0.1)
    flat = flatten(network)
    inside = torch.zeros_like(flat.data)
    for view in flat.views(inside):
        view.fill_(1.0)
    assert int(inside.sum()) == sum(t.numel() for t in values(network))
    assert (flat.data[inside == 0] == 0).all()


def test_state_survives_a_round_trip_and_refuses_another_networks(network: Net) -> None:
    x = torch.ones(2, 3)
    optimiser = Adam(network)
    optimiser.step(network(x).sum(), 0.1)
    twin = copy.deepcopy(network)
    resumed = Adam(twin)
    resumed.load_state_dict(optimiser.state_dict())
    for one, net in ((optimiser, network), (resumed, twin)):
        one.step(net(x).square().sum(), 0.1)
    assert torch.equal(flatten(network).data, flatten(twin).data)
    with pytest.raises(ValueError, match="mean"):
        Adam(nn.Linear(40, 40)).load_state_dict(optimiser.state_dict())
    with pytest.raises(KeyError):
        resumed.load_state_dict({})
