"""Torsos: from observations to features. By name in `TORSOS`; `register` adds a user's own.

A torso is a `Torso` made from an `EnvSpec`: it has a `size` and turns observations [..., *shape] into float32 features
[..., size]. Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from core.fields import nearest
from core.rl.normalise import RunningMoments
from core.specs import ArraySpec, EnvSpec, ObservationPart

MASK = "action_mask"
"""Name of the part of an observation that says which actions are legal: 1 for those that are."""


class Torso(nn.Module):
    """Base of all torsos. `size` is the number of features."""

    size: int

    def observe(self, obs: Tensor, valid: Tensor) -> None:
        """Take observations [..., *shape] with `valid` [...] 1 into running statistics; most torsos keep none."""


MakeTorso = Callable[[EnvSpec], Torso]


class FlatInput(Torso):
    """Observations [..., *shape] as float32 vectors [..., size]; uint8 becomes [0, 1].

    With `normalise` floats have mean 0 and deviation 1 by running statistics.
    """

    def __init__(self, spec: EnvSpec, normalise: bool = False) -> None:
        super().__init__()
        if spec.observation.dtype not in ("float32", "uint8"):
            raise ConfigError(
                f"{spec.id}: observations are {spec.observation.dtype}; MLP networks take float32 or uint8 arrays"
            )
        self.axes = len(spec.observation.shape)
        self.size = spec.observation.size
        self.moments = RunningMoments(self.size) if normalise and spec.observation.dtype == "float32" else None

    def forward(self, obs: Tensor) -> Tensor:
        """[..., *shape] to [..., size]."""
        x = self._flat(obs)
        if self.moments is not None:
            normal: Tensor = self.moments(x)
            return normal
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def observe(self, obs: Tensor, valid: Tensor) -> None:
        """Take them into the statistics, if any."""
        if self.moments is not None:
            self.moments.observe(self._flat(obs).reshape(-1, self.size), valid.reshape(-1))

    def _flat(self, obs: Tensor) -> Tensor:
        return obs if self.axes == 1 else obs.reshape(*obs.shape[: obs.ndim - self.axes], self.size)


class NatureCNN(Torso):
    """Images [..., C, H, W] through the three convolutions of Mnih 2015; the 512 units behind them are `hidden`.

    With channels last, forward and backward of 256 frames take 245 instead of 440 ms on one thread of a 2.5 GHz Xeon;
    without a gradient it gains nothing (64 frames: 27 and 26 ms). bf16 took 550 ms there: that processor has none.
    """

    LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """Filters, their width, stride."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        shape = _image(spec, "nature")
        layers: list[nn.Module] = []
        channels = shape[0]
        for filters, width, stride in self.LAYERS:
            layer = nn.Conv2d(channels, filters, width, stride)
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(cast(Tensor, layer.bias))
            layers += [layer, nn.ReLU()]
            channels = filters
        self.layers = nn.Sequential(*layers)
        try:
            with torch.no_grad():
                self.size = self.layers(torch.zeros(1, *shape)).numel()
        except RuntimeError:
            raise ConfigError(
                f"{spec.id}: images of {shape[1]} x {shape[2]} are too small for the nature network, which needs 36 x "
                "36; use --set with network=flat, or a network of your own (shoal.register.network)"
            ) from None

    def forward(self, obs: Tensor) -> Tensor:
        """[..., C, H, W] to [..., size]."""
        images = obs.reshape(-1, *obs.shape[-3:])
        if torch.is_grad_enabled():
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.layers(images.float() / 255 if images.dtype == torch.uint8 else images)
        return features.reshape(*obs.shape[:-3], self.size)


class PongInput(Torso):
    """The lecture's Pong: the difference of the two newest frames [..., 2, 80, 80], flat (Karpathy 2016).

    Behind it `hidden: [200]` and up or down. Frames come in grey; what differs from the background by a threshold is
    1, the rest 0, as there.
    """

    BACKGROUND_LEVELS = (87, 90, 109)
    """Grey levels of Pong's two backgrounds and their mixtures, in [0, 255]."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        shape = _image(spec, "pong")
        if shape[0] < 2:
            raise ConfigError(
                f"{spec.id}: the pong network takes the difference of two frames, observations have {shape[0]}; "
                "set env_kwargs.stack_num to 2"
            )
        self.size = shape[1] * shape[2]

    def forward(self, obs: Tensor) -> Tensor:
        """[..., C, H, W] to [..., H x W], each -1, 0 or 1."""
        newest, before = (self._foreground(obs[..., -i, :, :]) for i in (1, 2))
        return (newest - before).flatten(-2)

    def _foreground(self, frames: Tensor) -> Tensor:
        background = torch.zeros_like(frames, dtype=torch.bool)
        for level in self.BACKGROUND_LEVELS:
            background |= frames == level
        return (~background & (frames != 0)).float()


class PackedInput(Torso):
    """Observations of several parts, packed into bytes [..., nbytes]: every part's features side by side.

    Images go through a torso of their own, the rest is flat; integers are one-hot. The action mask is no feature.
    """

    def __init__(self, spec: EnvSpec, normalise: bool = False) -> None:
        super().__init__()
        self.parts = tuple(part for part in spec.parts if part.name != MASK)
        self.torsos = [_of_part(spec, part, normalise) for part in self.parts]
        self.registered = nn.ModuleList(self.torsos)
        self.size = sum(torso.size for torso in self.torsos)

    def forward(self, obs: Tensor) -> Tensor:
        """[..., nbytes] to [..., size]."""
        features = [torso(unpack(obs, part)) for torso, part in zip(self.torsos, self.parts, strict=True)]
        return torch.cat(features, -1) if len(features) > 1 else features[0]

    def observe(self, obs: Tensor, valid: Tensor) -> None:
        """Every part's own statistics."""
        for torso, part in zip(self.torsos, self.parts, strict=True):
            torso.observe(unpack(obs, part), valid)


class OneHot(Torso):
    """Integers [..., *shape] from 0 to n - 1 as [..., size]: n numbers each."""

    def __init__(self, part: ObservationPart) -> None:
        super().__init__()
        self.n, self.axes = part.n, len(part.array.shape)
        self.size = part.n * part.array.size

    def forward(self, numbers: Tensor) -> Tensor:
        """One 1 among n."""
        leading = numbers.shape[: numbers.ndim - self.axes]
        return functional.one_hot(numbers, self.n).float().reshape(*leading, self.size)


def unpack(obs: Tensor, part: ObservationPart) -> Tensor:
    """One part [..., *shape] of packed observations [..., nbytes]: a view, no copy."""
    found = obs[..., part.offset : part.offset + part.array.nbytes]
    dtype = getattr(torch, part.array.dtype)
    return found.view(dtype).unflatten(-1, part.array.shape) if part.array.shape else found.view(dtype).squeeze(-1)


def action_mask(spec: EnvSpec) -> Callable[[Tensor], Tensor] | None:
    """A function from observations to which actions are legal [..., A], bool; None where the environment says nothing.

    The last axis is as long as the numbers of all discrete choices together.
    """
    for part in spec.parts:
        if part.name == MASK:
            return lambda obs: unpack(obs, part) != 0
    return None


TORSOS: dict[str, MakeTorso] = {"flat": FlatInput, "nature": NatureCNN, "pong": PongInput}
"""Name -> class or function that makes one from an EnvSpec."""


def register(name: str, torso: MakeTorso) -> None:
    """Make `network: NAME` mean `torso(spec)`. Raises ConfigError where the name is another's."""
    if not name.isidentifier() or TORSOS.get(name, torso) is not torso or name == "auto":
        raise ConfigError(f"network {name!r}: must be a Python name that no other network has; there are {_known()}")
    TORSOS[name] = torso


def make_torso(spec: EnvSpec, name: str, normalise: bool = False) -> Torso:
    """The torso of that name; "auto" takes nature for images and flat for the rest. Raises ConfigError.

    `normalise` is for arrays of floats; images and integers stay as they are.
    """
    if name == "auto":
        if spec.parts:
            return PackedInput(spec, normalise)
        name = "nature" if _is_image(spec.observation) else "flat"
    elif spec.parts and name in ("flat", "nature", "pong"):
        raise ConfigError(
            f"network: {name} takes one array, {spec.id} observes {', '.join(part.name for part in spec.parts)}; use "
            "auto, which treats each part as its shape asks, or register a network of your own"
        )
    if name == "flat":
        return FlatInput(spec, normalise)
    if name not in TORSOS:
        raise ConfigError(f"network: there is no {name!r}{nearest(name, TORSOS)}; there are auto, {_known()}")
    torso = TORSOS[name](spec)
    if not isinstance(torso, Torso) or not isinstance(getattr(torso, "size", None), int):
        raise ConfigError(
            f"network: {name} made {type(torso).__name__}, a core.rl.torsos.Torso with a whole number `size` is needed"
        )
    return torso


def _known() -> str:
    return ", ".join(sorted(TORSOS))


def _is_image(array: ArraySpec) -> bool:
    return len(array.shape) == 3 and array.dtype == "uint8" and min(array.shape[1:]) >= 36


def _image(spec: EnvSpec, name: str) -> tuple[int, ...]:
    shape = spec.observation.shape
    if len(shape) != 3:
        raise ConfigError(
            f"{spec.id}: the {name} network takes images [channels, height, width], observations are {list(shape)}; "
            "use network flat"
        )
    return shape


def _of_part(spec: EnvSpec, part: ObservationPart, normalise: bool) -> Torso:
    if part.n:
        return OneHot(part)
    return make_torso(replace(spec, observation=part.array, parts=()), "auto", normalise)
