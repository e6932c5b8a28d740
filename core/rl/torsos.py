"""Torsos by name in `TORSOS`, and those that are no images; `register` adds a user's own.

Initial parameters come from torch's global generator, which the caller seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from core.fields import nearest
from core.rl.images import NatureCNN, PongInput
from core.rl.normalise import RunningMoments
from core.rl.torso import Torso
from core.specs import ArraySpec, EnvSpec, ObservationPart

MASK = "action_mask"
"""Name of the part of an observation that says which actions are legal: 1 for those that are."""


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


def _of_part(spec: EnvSpec, part: ObservationPart, normalise: bool) -> Torso:
    if part.n:
        return OneHot(part)
    return make_torso(replace(spec, observation=part.array, parts=()), "auto", normalise)
