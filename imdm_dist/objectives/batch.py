"""Masked examples: what an objective is computed on, made on the host.

Everything random about an example is keyed by (run seed, global sample index), so it does not depend
on world size, micro-batch or accumulation; the indices of masked rows are known on the host, so a
training step never waits for the device to learn a shape.

Shape suffixes: B batch, L length, M masked rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.device import send_all
from imdm_dist.diffusion.schedule import EPSILON, alpha
from imdm_dist.draws import Purpose
from imdm_dist.model.mask_embedding import MaskedRows, masked_rows


@dataclass(frozen=True)
class MaskedBatch:
    """A micro-batch, on the host or on the device."""

    x_BL: Tensor
    """Tokens with masks, int64."""
    clean_BL: Tensor
    """Tokens to be predicted, int64."""
    time_B: Tensor
    """Diffusion time, float64."""
    seed_B: Tensor
    """Seed of each sequence's mask noise, int64."""
    draw_seed_B: Tensor
    """Seed of every other draw made on behalf of the example at this step, int64."""
    masked: MaskedRows
    """The masked rows and the keys of their noise."""
    target_M: Tensor
    """The clean token of each masked row."""
    total: float
    """What the sum over rows is divided by: tokens or masked tokens of the *global* batch."""

    def to(self, device: torch.device) -> MaskedBatch:
        """Copy from the host to `device` without waiting."""
        return send_all(self, device)

    def row_time_M(self) -> Tensor:
        """Time of each masked row's sequence."""
        return self.time_B[self.masked.flat_M // self.x_BL.shape[1]]


def strata(global_batch: int) -> Tensor:
    """A stratum for each place of a global batch, int64 [global_batch]: every one once, any neighbours spread out.

    Ranks and micro-batches take neighbouring places, and what they have to do grows with time: in order, the last
    would have twice the mean. Steps of the golden section give all nearly the same.
    """
    stride = max(1, round(global_batch * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, global_batch) > 1:
        stride += 1
    return torch.arange(global_batch) * stride % global_batch


def stratified_time(draw_seed_B: Tensor, first: int, global_batch: int) -> Tensor:
    """Times in [EPSILON, 1], one in each of `global_batch` equal strata (MDLM's antithetic sampling, globally).

    Args:
        draw_seed_B: int64 seeds of the examples.
        first: place of the first of them in the global batch.

    Returns:
        float64 [B].
    """
    return time_within(strata(global_batch)[first : first + len(draw_seed_B)], draw_seed_B, global_batch)


def time_within(stratum_B: Tensor, draw_seed_B: Tensor, count: int) -> Tensor:
    """A time in each of the strata named, of `count` equal ones of [EPSILON, 1]; float64 [B]."""
    unit_B = (stratum_B.double() + draws.uniform(draw_seed_B, Purpose.TIME, 0)) / count
    return EPSILON + (1 - EPSILON) * unit_B


def draw_mask(draw_seed_B: Tensor, time_B: Tensor, length: int) -> Tensor:
    """Mask each position with probability 1 - alpha_t (Eq. 12); bool [B, L]."""
    uniform_BL = draws.uniform(draw_seed_B[:, None], Purpose.MASK, torch.arange(length))
    return uniform_BL < (1 - alpha(time_B))[:, None]


def build_batch(
    clean_BL: Tensor,
    masked_BL: Tensor,
    time_B: Tensor,
    seed_B: Tensor,
    draw_seed_B: Tensor,
    mask_id: int,
    total: float,
) -> MaskedBatch:
    """Put masks where `masked_BL` (bool) holds and gather the rows that count."""
    masked = masked_rows(masked_BL, seed_B)
    return MaskedBatch(
        x_BL=clean_BL.masked_fill(masked_BL, mask_id),
        clean_BL=clean_BL,
        time_B=time_B,
        seed_B=seed_B,
        draw_seed_B=draw_seed_B,
        masked=masked,
        target_M=clean_BL.flatten()[masked.flat_M],
        total=total,
    )
