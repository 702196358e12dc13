"""Floating-point operations: of a training step, by part, and of the rollouts of a coupling.

Matrix products alone are counted, two operations for a multiply and an add; backward costs twice what forward
does. The head runs on masked rows, which are half of all on average, so it is counted apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.config.model import ModelConfig
from imdm_dist.config.schema import Config
from imdm_dist.diffusion.schedule import EPSILON
from imdm_dist.objectives.objective import objective_of

MASKED = (1 - EPSILON) * (1 + EPSILON) / 2
"""Mean share of positions that are masked when t is uniform on [EPSILON, 1]."""


def forward_per_token(model: ModelConfig, length: int) -> float:
    """Forward operations of the blocks for one token: products with weights and attention to `length` positions."""
    dim = model.hidden_dim
    return model.n_blocks * (24.0 * dim**2 + 4.0 * dim * length)


def forward_per_row(model: ModelConfig, vocab_size: int) -> float:
    """Forward operations of the head for one row."""
    return 2.0 * model.hidden_dim * vocab_size


def forward_per_mask(model: ModelConfig) -> tuple[float, float]:
    """Forward operations of the two layers of the noise MLP for one masked position; 0 without one."""
    if model.mask.kind != "infinite":
        return 0.0, 0.0
    return 8.0 * model.hidden_dim * model.mask.noise_dim, 8.0 * model.hidden_dim**2


def flops_per_token(model: ModelConfig, vocab_size: int, length: int) -> tuple[float, float]:
    """Operations of training, forward and backward: of the backbone for a token, and of the head for a masked row.

    The noise MLP is in the first, at its mean over tokens; its first layer has no backward to its input.
    """
    first, second = forward_per_mask(model)
    backbone = 3 * forward_per_token(model, length) + MASKED * (2 * first + 3 * second)
    return backbone, 3 * forward_per_row(model, vocab_size)


@dataclass(frozen=True)
class StepFlops:
    """Operations of an optimizer step over all ranks."""

    backbone: float
    """Blocks and noise MLP, forward and backward."""
    head: float
    """Head on masked rows, forward and backward."""
    recompute: float
    """Blocks and chunks of rows that are computed a second time in backward."""
    teacher: float
    """Passes of the objective's teacher and its head."""

    @property
    def total(self) -> float:
        """All that is executed."""
        return self.backbone + self.head + self.recompute + self.teacher


def step_flops(config: Config, vocab_size: int, micro_batch: int) -> StepFlops:
    """Operations of one optimizer step.

    Args:
        micro_batch: examples in one forward pass of a rank.
    """
    model, length = config.model, config.data.length
    tokens = config.train.global_batch * length
    backbone, head = flops_per_token(model, vocab_size, length)
    block, row = forward_per_token(model, length), forward_per_row(model, vocab_size)
    recompute = block if config.engine.recompute else 0.0
    costs = objective_of(config.objective).costs(config)
    if micro_batch * length * MASKED > config.engine.loss_chunk_rows:
        recompute += MASKED * costs.heads * row
    noise = MASKED * sum(forward_per_mask(model))
    teacher = costs.teacher_passes * (block + noise) + MASKED * (costs.heads - 1) * row
    return StepFlops(tokens * backbone, tokens * MASKED * head, tokens * recompute, tokens * teacher)


@dataclass(frozen=True)
class PairCost:
    """Means over the pairs of a coupling."""

    masked: float
    """Positions that the teacher fills in."""
    evaluations: float
    """Network evaluations: the distinct steps at which positions are revealed."""
    flops: float
    """Operations."""


def pair_cost(model: ModelConfig, coupling: CouplingConfig, vocab_size: int, length: int) -> PairCost:
    """What a pair costs. Each masked position is revealed at one of N steps, uniformly, whatever time it starts at.

    With M masked positions N * (1 - (1 - 1/N)**M) steps reveal something; a perturbed start has
    M ~ Binomial(L, (1 - EPSILON) * t) with t ~ U(0, 1).
    """
    steps = coupling.steps
    if coupling.kind == "plain":
        masked = float(length)
        untouched = (1 - 1 / steps) ** length
    else:
        masked = length * (1 - EPSILON) / 2
        rate = (1 - EPSILON) / steps
        untouched = -math.expm1((length + 1) * math.log1p(-rate)) / (rate * (length + 1))
    evaluations = steps * (1 - untouched)
    # At an evaluation half of what the rollout fills in is still masked, on average.
    noise = evaluations * masked / 2 * sum(forward_per_mask(model))
    flops = (
        evaluations * length * forward_per_token(model, length) + noise + masked * forward_per_row(model, vocab_size)
    )
    return PairCost(masked, evaluations, flops)
