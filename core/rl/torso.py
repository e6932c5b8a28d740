"""The base of torsos, which turn observations into features."""

from __future__ import annotations

from torch import Tensor, nn

from core.rl.precision import Precision


class Torso(nn.Module):
    """Made from an `EnvSpec`; turns observations [..., *shape] into features [..., size].

    They are float32; a torso of images may hand out bf16, as core/rl/precision.py says.
    """

    size: int
    precision: Precision = "auto"
    """What the settings ask for."""

    def compute_in(self, precision: Precision) -> None:
        """Set the precision, also of the torsos inside."""
        for module in self.modules():
            if isinstance(module, Torso):
                module.precision = precision

    def observe(self, obs: Tensor, valid: Tensor) -> None:
        """Take observations [..., *shape] with `valid` [...] 1 into running statistics; most torsos keep none."""
