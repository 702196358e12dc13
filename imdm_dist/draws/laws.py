"""Laws of the mask noise: each is one function of the keys of its draws; `imdm_dist.registry` names them.

All take int64 seeds, positions and redraws [R] and a number of dimensions K, and give float32 [R, K]. The first K of
more dimensions are the same as K dimensions.

Shape suffixes: R rows, K dimensions of one vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imdm_dist.draws.keyed import noise_words


def uniform_noise(seed_R: Tensor, position_R: Tensor, redraw_R: Tensor, dim: int) -> Tensor:
    """Uniform on (-1, 1), equal bit for bit on every device."""
    word_RK = noise_words(seed_R, position_R, redraw_R, dim)
    # Odd numerators over 2**24: every value is exact in float32, so no device can round it differently.
    return ((word_RK >> 8) * 2 + (1 - 2**24)).to(torch.float32).mul_(2.0**-24)[:, :dim]


def gaussian_noise(seed_R: Tensor, position_R: Tensor, redraw_R: Tensor, dim: int) -> Tensor:
    """Standard normal, equal on every device to rounding (Box and Muller 1958)."""
    word_RK = noise_words(seed_R, position_R, redraw_R, dim)
    radius_RK = word_RK[:, 0::2].to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle_RK = word_RK[:, 1::2].to(torch.float32).mul_(2 * math.pi * 2.0**-32)
    return torch.stack((radius_RK * angle_RK.cos(), radius_RK * angle_RK.sin()), dim=-1).flatten(1)[:, :dim]
