"""What becomes of a masked position's noise in a step (arXiv 2605.10518, Eq. 13, pi'): kept, or drawn again.

The noise of a position is a function of its seed and of a redraw index, so a law of noise is a law of that index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imdm_dist.config.setting import NoisePolicy
from imdm_dist.diffusion.schedule import alpha


def redraw_noise(
    redraw: Tensor, new: Tensor, now: Tensor, then: Tensor, policy: NoisePolicy, draw: Callable[[], Tensor]
) -> Tensor:
    """Redraw indices after a step from time t = `now` to time s = `then` <= t.

    Noise is kept with probability alpha_t / alpha_s, else redrawn. Over several grid steps the probability to have
    been kept throughout is the product, which telescopes to alpha_t / alpha_s of the two ends: one call serves for all
    the steps between two evaluations of a network.

    Args:
        redraw: indices before the step, int64.
        new: indices of noise that is drawn in it, int64; like both times it need only broadcast to `redraw`.
        now, then: times, float64.
        policy: posterior as above; fixed keeps all noise, fresh redraws all.
        draw: gives the uniforms that decide, float64 of the shape of `redraw`; asked under `posterior` alone.
    """
    if policy == "fixed":
        return redraw
    if policy == "fresh":
        return new.expand_as(redraw)
    return torch.where(draw() < alpha(now) / alpha(then), redraw, new)
