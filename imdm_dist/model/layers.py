"""Layers that families share: a norm that training may have computed by another library, attention, precision.

Shape suffixes: B batch, H heads, L length, E head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """LayerNorm without bias, normalised in float32 under any precision."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.normalise(x.float()) * self.weight

    def normalise(self, x: Tensor) -> Tensor:
        """To mean 0 and variance 1 along the last axis; engine.layer_norm puts apex's kernel in its place."""
        return F.layer_norm(x, x.shape[-1:])


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, soft_cap: float = 0.0) -> Tensor:
    """Attention of every position to every other, [B, H, L, E]; soft_cap bounds its scores unless it is 0."""
    if soft_cap:
        return capped_attention(q_BHLE, k_BHLE, v_BHLE, soft_cap)
    if q_BHLE.device.type == "cpu" and q_BHLE.dtype == torch.bfloat16:
        return plain_attention(q_BHLE, k_BHLE, v_BHLE)  # the CPU's fused kernel takes twice as long in bf16
    return F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE)


def plain_attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor) -> Tensor:
    """Attention of every position to every other, by plain products."""
    score = q_BHLE @ k_BHLE.transpose(2, 3) / math.sqrt(q_BHLE.shape[-1])
    return score.softmax(dim=-1).to(v_BHLE.dtype) @ v_BHLE


def capped_attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, soft_cap: float) -> Tensor:
    """Attention with scores squashed to (-soft_cap, soft_cap), which are float32 under any precision.

    Here a fused kernel would go: `benchmarks/gpu.py` measures torch's flex_attention beside it.
    """
    with torch.autocast(q_BHLE.device.type, enabled=False):
        q_BHLE, k_BHLE = full_precision(q_BHLE), full_precision(k_BHLE)
        score = q_BHLE @ k_BHLE.transpose(2, 3) / math.sqrt(q_BHLE.shape[-1])
        weight = (soft_cap * torch.tanh(score / soft_cap)).softmax(dim=-1)
        return weight.to(v_BHLE.dtype) @ v_BHLE
