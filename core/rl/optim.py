"""One contiguous tensor for all parameters of a network, and optimisers over it.

Gradient norm, clipping, the optimiser step, a published snapshot, a target network's copy: each is one operation
on one tensor instead of a loop over parameters, on the CPU and on a GPU alike.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adam import adam

from core.errors import ConfigError, WeightsCorruptError

ALIGNMENT = 16  # numbers; every parameter starts on 64 bytes, as the matrix kernels of CPUs and GPUs like it


class Flat:
    """The parameters and then the buffers of a network as views of `data` [size], float32, on the network's device.

    `params` is the part of `data` that an optimiser may change. Gaps between tensors are zero and stay zero.
    """

    def __init__(self, network: nn.Module) -> None:
        named = _tensors(network)
        for name, tensor in named:
            if tensor.dtype != torch.float32:
                raise ConfigError(f"network tensor {name} is {tensor.dtype}; a published network is float32 throughout")
        room = [-(-tensor.numel() // ALIGNMENT) * ALIGNMENT for _, tensor in named]
        starts = [0, *itertools.accumulate(room)]
        self._layout = [(name, start, tensor.shape) for (name, tensor), start in zip(named, starts, strict=False)]
        self._starts = starts
        self.data = torch.zeros(starts[-1], device=named[0][1].device)
        self.params = self.data[: starts[len(list(network.parameters()))]]
        for (_, tensor), view in zip(named, self.views(self.data), strict=True):
            view.copy_(tensor.detach())
            tensor.data = view
        self._pointers = [tensor.data_ptr() for _, tensor in named]

    def views(self, like_data: Tensor) -> list[Tensor]:
        """Views of a tensor laid out as `data` (or as `params`), one for each tensor that it reaches."""
        return [
            like_data[start : start + shape.numel()].view(shape)
            for _, start, shape in self._layout
            if start + shape.numel() <= like_data.numel()
        ]

    def end_of(self, tensors: int) -> int:
        """Where the first so many tensors end in `data`."""
        return self._starts[tensors]

    def holds(self, network: nn.Module) -> bool:
        """Whether the network's tensors are still views of `data` (moving it to another device ends that)."""
        return self._pointers == [tensor.data_ptr() for _, tensor in _tensors(network)]

    def snapshot(self) -> NDArray[np.float32]:
        """A copy of `data`: the weights that travel and the params of a checkpoint."""
        return self.data.to("cpu", copy=True).numpy()

    def load(self, weights: NDArray[Any]) -> None:
        """Overwrite `data` in place with a snapshot of a network with the same manifest."""
        if weights.shape != self.data.shape or weights.dtype != np.float32:
            raise WeightsCorruptError(
                f"weights are {weights.dtype}{list(weights.shape)}, this network takes float32{list(self.data.shape)}: "
                "they belong to another network, or were cut"
            )
        self.data.copy_(torch.from_numpy(np.array(weights)))

    def manifest(self) -> str:
        """A hash over the names, shapes and order of all tensors: equal where snapshots can be exchanged."""
        layout = ";".join(f"{name} float32{list(shape)}@{start}" for name, start, shape in self._layout)
        return hashlib.sha256(layout.encode()).hexdigest()[:16]


_FLATS: WeakKeyDictionary[nn.Module, Flat] = WeakKeyDictionary()


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def flatten(network: nn.Module) -> Flat:
    """The network's `Flat`: made at the first call and again after the network was moved, else the one it has."""
    flat = _FLATS.get(network)
    if flat is None or not flat.holds(network):
        flat = _FLATS[network] = Flat(network)
    return flat


def flat_gradient(loss: Tensor, network: nn.Module, learned: nn.Module) -> Tensor:
    """The gradient of `loss`, laid out as the first part of `flatten(network).params` as far as `learned` reaches.

    The parameters of `learned` are the network's first ones.
    """
    flat, parameters = flatten(network), list(learned.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    end = flat.end_of(len(parameters))
    gradient = torch.zeros(end, device=flat.data.device)
    for view, part in zip(flat.views(gradient), found, strict=True):
        if part is not None:
            view.copy_(part)
    return gradient


class Optimiser(ABC):
    """Base of optimisers over the flat parameters of one network; every parameter's `.grad` views one gradient.

    Leave the gradients to `step`: `network.zero_grad()` would detach them.
    """

    def __init__(self, network: nn.Module) -> None:
        flat = flatten(network)
        self.params = flat.params
        self.gradient = torch.zeros_like(self.params)
        for parameter, view in zip(network.parameters(), flat.views(self.gradient), strict=True):
            parameter.grad = view

    def step(self, loss: Tensor, learning_rate: float, max_grad_norm: float | None = None) -> Tensor:
        """One update down the gradient of `loss`; the gradient's norm before clipping, as a tensor without a sync."""
        self.gradient.zero_()
        loss.backward()
        return self.descend(learning_rate, max_grad_norm)

    def descend(self, learning_rate: float, max_grad_norm: float | None = None) -> Tensor:
        """One update down what is in `gradient`, which is clipped in place; its norm before that."""
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        if max_grad_norm is not None:
            self.gradient.mul_((max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        self._move(learning_rate)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Copies of all running statistics."""
        return {name: tensor.clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict`; KeyError or ValueError where it is another network's."""
        for name, tensor in self._state().items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"optimiser {name} has {list(state[name].shape)}, this takes {list(tensor.shape)}")
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    @abstractmethod
    def _move(self, learning_rate: float) -> None:
        """Change `params` by `gradient`."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """The running statistics themselves, no copies."""


class Adam(Optimiser):
    """Adam (Kingma 2015)."""

    def __init__(self, network: nn.Module, eps: float = 1e-8, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        super().__init__(network)
        self.eps, self.betas = eps, betas
        self.step_count = torch.zeros((), device=self.params.device)
        self.mean, self.square = torch.zeros_like(self.params), torch.zeros_like(self.params)

    def _move(self, learning_rate: float) -> None:
        adam(
            [self.params],
            [self.gradient],
            [self.mean],
            [self.square],
            [],
            [self.step_count],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def _state(self) -> dict[str, Tensor]:
        return {"step_count": self.step_count, "mean": self.mean, "square": self.square}


class RMSProp(Optimiser):
    """RMSProp as A3C shares it (Mnih 2016, section 4): g = a g + (1 - a) d^2, theta -= lr d / sqrt(g + eps).

    g begins at 1, so the first steps are small ones. `as_torch`: as torch.optim.RMSprop, where g begins at 0 and eps
    is added behind the root, so the first steps are the largest of all and small gradients count as much as large ones.
    """

    def __init__(self, network: nn.Module, eps: float = 1e-5, decay: float = 0.99, as_torch: bool = False) -> None:
        super().__init__(network)
        self.eps, self.decay, self.as_torch = eps, decay, as_torch
        self.square = torch.zeros_like(self.params) if as_torch else torch.ones_like(self.params)

    def _move(self, learning_rate: float) -> None:
        self.square.mul_(self.decay).addcmul_(self.gradient, self.gradient, value=1 - self.decay)
        root = self.square.sqrt().add_(self.eps) if self.as_torch else (self.square + self.eps).sqrt_()
        self.params.addcdiv_(self.gradient, root, value=-learning_rate)

    def _state(self) -> dict[str, Tensor]:
        return {"square": self.square}


OptimiserKind = Literal["rmsprop", "rmsprop_torch", "adam"]


def make_optimiser(kind: OptimiserKind, network: nn.Module, eps: float) -> Optimiser:
    """The optimiser of that name."""
    return Adam(network, eps) if kind == "adam" else RMSProp(network, eps, as_torch=kind == "rmsprop_torch")
