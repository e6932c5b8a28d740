"""Torsos of images: the Nature CNN and the lecture's Pong. uint8 comes as far as here."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import ConfigError
from core.rl.precision import dtype_of
from core.rl.torso import Torso
from core.specs import EnvSpec


class NatureCNN(Torso):
    """Images [..., C, H, W] through the three convolutions of Mnih 2015; the 512 units behind them are `hidden`.

    Channels stand last, and in bf16 the first layer runs over blocks of pixels: `python -m docs.measure_parts` says
    what that is worth.
    """

    LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """Filters, their width, stride."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        shape = image_shape(spec, "nature")
        self.convolutions: list[nn.Conv2d] = []
        channels = shape[0]
        for filters, width, stride in self.LAYERS:
            layer = nn.Conv2d(channels, filters, width, stride)
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(cast(Tensor, layer.bias))
            self.convolutions.append(layer)
            channels = filters
        self.layers = nn.ModuleList(self.convolutions)
        try:
            with torch.no_grad():
                self.size = self(torch.zeros(1, *shape)).shape[-1]
        except RuntimeError:
            raise ConfigError(
                f"{spec.id}: images of {shape[1]} x {shape[2]} are too small for the nature network, which needs 36 x "
                "36; use --set with network=flat, or a network of your own (shoal.register.network)"
            ) from None

    def forward(self, obs: Tensor) -> Tensor:
        """[..., C, H, W] to [..., size]."""
        images = obs.reshape(-1, *obs.shape[-3:])
        dtype = dtype_of(self.precision, len(images), images.device)
        first, *others = self.convolutions
        weight, stride = first.weight, first.stride
        if images.dtype == torch.uint8:
            weight = weight / 255  # bytes are exact in bf16, their quotients are not
        if images.dtype == torch.uint8 and dtype == torch.bfloat16:
            x, weight, stride = in_blocks(images).to(dtype), filters_of_blocks(weight), (1, 1)
        else:
            x = images.contiguous(memory_format=torch.channels_last).to(dtype)
        x = _convolved(x, weight, first.bias, stride)
        for layer in others:
            x = _convolved(x, layer.weight, layer.bias, layer.stride)
        return x.reshape(*obs.shape[:-3], -1)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return functional.conv2d(x, weight.to(x.dtype), bias, stride).relu_()


def in_blocks(images: Tensor) -> Tensor:
    """Blocks of 4 x 4 pixels as 16 channels: uint8 [N, C, H, W] to [N, 16 C, H // 4, W // 4], channels last.

    A convolution 8 wide with stride 4 is one 2 wide with stride 1 over them, with many channels, which is what units
    for matrices want. Four pixels in a row move as one number. Pixels beyond the last whole block are in no window.
    """
    rows, columns = images.shape[2] // 4, images.shape[3] // 4
    quads: Tensor = images[:, :, : 4 * rows, : 4 * columns].contiguous().view(torch.int32)
    blocks: Tensor = quads.unflatten(2, (rows, 4)).permute(0, 2, 4, 1, 3).contiguous()
    return blocks.view(torch.uint8).flatten(3).permute(0, 3, 1, 2)


def filters_of_blocks(weight: Tensor) -> Tensor:
    """The filters [O, C, 8, 8] of stride 4 for images in blocks: [O, 16 C, 2, 2]."""
    quarters: Tensor = weight.unflatten(3, (2, 4)).unflatten(2, (2, 4))
    return quarters.permute(0, 1, 3, 5, 2, 4).reshape(len(weight), -1, 2, 2)


class PongInput(Torso):
    """The lecture's Pong: the difference of the two newest frames [..., 2, 80, 80], flat (Karpathy 2016).

    Behind it `hidden: [200]` and up or down. Frames come in grey; what differs from the background by a threshold is
    1, the rest 0, as there.
    """

    BACKGROUND_LEVELS = (87, 90, 109)
    """Grey levels of Pong's two backgrounds and their mixtures, in [0, 255]."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        shape = image_shape(spec, "pong")
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


def image_shape(spec: EnvSpec, name: str) -> tuple[int, ...]:
    """[channels, height, width]. Raises ConfigError where observations are no images."""
    shape = spec.observation.shape
    if len(shape) != 3:
        raise ConfigError(
            f"{spec.id}: the {name} network takes images [channels, height, width], observations are {list(shape)}; "
            "use network flat"
        )
    return shape
