"""Importance weights of items drawn by priority (Schaul 2016, section 3.4). Pure functions, no gradients."""

from __future__ import annotations

from torch import Tensor


def importance_weights(probability_N: Tensor, exponent: float) -> Tensor:
    """(items x probability)^-exponent over the largest of the last axis, float32; the number of items cancels."""
    return (probability_N / probability_N.amin(-1, keepdim=True)).pow(-exponent).float()
