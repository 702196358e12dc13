"""The learning-rate schedule: linear warm-up, then constant, cosine or warm-up-stable-decay (wsd)."""

from __future__ import annotations

import math

from imdm_dist.config.training import OptimizerConfig

_DECAY_SHARE = 0.1


def learning_rate(config: OptimizerConfig, step: int, last: int) -> float:
    """Rate of an optimizer step.

    Step i of a warm-up of w has lr * (i + 1) / w. MDLM's trainer has lr * i / w, so that its first step changes
    nothing and each later one has the rate that ours had a step before.

    Args:
        step: 0 is the first.
        last: steps of the run; the last one, `last - 1`, has `lr_min` under cosine and wsd.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    # The decay begins behind `start`, the last step at the full rate, and ends at the last step.
    start = max(0, warmup - 1)
    if config.schedule == "wsd":
        start = max(start, last - 1 - (config.decay_steps or round(_DECAY_SHARE * last)))
    part = min(1.0, max(0.0, (step - start) / max(1, last - 1 - start)))
    left = 0.5 * (1 + math.cos(math.pi * part)) if config.schedule == "cosine" else 1 - part
    return config.lr_min + (config.lr - config.lr_min) * left
