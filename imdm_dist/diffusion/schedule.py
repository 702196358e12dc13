"""The log-linear noise schedule of MDLM: alpha_t = 1 - (1 - 1e-3) t."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-3
"""alpha_1, and the smallest time that training draws."""


def alpha(time: Tensor) -> Tensor:
    """Probability alpha_t that a token is still visible at `time` in [0, 1]; exactly 1 at time 0."""
    return 1 - (1 - EPSILON) * time


def stay_masked(now: Tensor, then: Tensor) -> Tensor:
    """Probability that a token masked at time t = `now` is still masked at s = `then` <= t (Eq. 4 and 13)."""
    return (1 - alpha(then)) / (1 - alpha(now))


def nelbo_weight(time: Tensor) -> Tensor:
    """-alpha'_t / (1 - alpha_t), the weight of -log p in Eq. 5 and Eq. 14: 1/t for this schedule."""
    return 1 / time
