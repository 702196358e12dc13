"""Rotary position embedding, base 10,000, halves rotated.

Shape suffixes: B batch, L length, H heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def frequencies(head_dim: int, device: torch.device) -> Tensor:
    """Radians a position, float32 [E / 2]."""
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    return 1.0 / 10_000**exponent


class Rotary(nn.Module):
    """Angles of rotary position embedding."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.register_buffer("inv_freq", frequencies(head_dim, torch.device("cpu")))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine, float32 [L, E]."""
        # The buffer is part of the public format, but an engine may cast it to bf16, where angles are useless.
        angle = torch.outer(
            torch.arange(length, device=self.inv_freq.device, dtype=torch.float32),
            frequencies(self.head_dim, self.inv_freq.device),
        )
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


def rotate(x_BLHE: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    """Apply rotary position embedding."""
    first, second = x_BLHE.chunk(2, dim=-1)
    cos, sin = cos_LE[:, None].to(x_BLHE.dtype), sin_LE[:, None].to(x_BLHE.dtype)
    return x_BLHE * cos + torch.cat((-second, first), dim=-1) * sin
