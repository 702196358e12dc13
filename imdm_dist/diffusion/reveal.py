"""Reveal steps: at which step each position gets its token, drawn before the first network evaluation.

In ancestral sampling which masked positions are revealed does not depend on their values (Eq. 4, 13:
a masked position is revealed on the way from t to s with probability (alpha_s - alpha_t) / (1 - alpha_t)).
So the step at which a position is revealed is an independent draw from a known law, and the network
need be evaluated only at steps that reveal something: at most N, and at most L, of N.

Shape suffixes: B batch, L length, N grid points, J evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imdm_dist.diffusion.schedule import stay_masked


def grid_time(start_time_B: Tensor, taken_B: Tensor, steps: int) -> Tensor:
    """Time after `taken_B` of `steps` equal steps from start_time_B down to 0, float64."""
    return start_time_B * (steps - taken_B) / steps


def reveal_steps(masked_BL: Tensor, uniform_BL: Tensor, start_time_B: Tensor, steps: int) -> Tensor:
    """The step, 1 to N, that reveals each masked position; 0 at visible ones; int64 [B, L].

    Position l is still masked after step i with probability `stay_masked(t_0, t_i)`; the last step reveals all that is
    left, as alpha is 1 at time 0.
    """
    taken_N = torch.arange(steps + 1, dtype=torch.float64)
    time_BN = grid_time(start_time_B[:, None], taken_N, steps)
    # Ascending over the reversed grid: the count of points with probability above u is the last masked step.
    ascending_BN = stay_masked(time_BN[:, :1], time_BN).flip(1)
    step_BL = steps + 1 - torch.searchsorted(ascending_BN, uniform_BL, right=True)
    return torch.where(masked_BL, step_BL.clamp(1, steps), 0)


@dataclass(frozen=True)
class RevealPlan:
    """Which evaluation of its sequence reveals each position. All on the host."""

    evaluation_BL: Tensor
    """Evaluation, 0 to count - 1, that reveals the position; -1 where it was visible from the start."""
    step_BJ: Tensor
    """Grid step, 1 to N, of each evaluation; ascending; only the first count_B entries of a row mean something."""
    count_B: Tensor
    """Evaluations that a sequence needs."""


def plan_reveals(step_BL: Tensor) -> RevealPlan:
    """Group the positions of each sequence by the distinct steps that reveal something."""
    ordered_BL, order_BL = step_BL.sort(dim=1, stable=True)
    previous_BL = torch.nn.functional.pad(ordered_BL[:, :-1], (1, 0))
    rank_BL = (ordered_BL != previous_BL).cumsum(dim=1) - 1  # visible positions have step 0 and come first
    evaluation_BL = torch.empty_like(rank_BL).scatter_(1, order_BL, rank_BL)
    count_B = rank_BL[:, -1] + 1
    step_BJ = torch.zeros(len(step_BL), max(int(count_B.max()), 1), dtype=torch.int64)
    step_BJ.scatter_(1, rank_BL.clamp(min=0), ordered_BL)
    return RevealPlan(evaluation_BL, step_BJ, count_B)
