"""Floating-point operations: of a training step, by part, and of the rollouts of a coupling.

Matrix products alone are counted, two operations for a multiply and an add, by torch's counter on tensors without
numbers, so that the figures are right for any family of backbones. The head runs on masked rows, which are half of all
on average, so it is counted apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.config.model import ModelConfig
from imdm_dist.config.schema import Config
from imdm_dist.diffusion.schedule import EPSILON
from imdm_dist.model import Backbone, MaskedRows, masked_rows
from imdm_dist.model.fake_tensors import fake_backbone
from imdm_dist.objectives.objective import objective_of

MASKED = (1 - EPSILON) * (1 + EPSILON) / 2
"""Mean share of positions that are masked when t is uniform on [EPSILON, 1]."""
EXAMPLES = 16
"""Sequences of the pass that is counted: what is computed once a pass weighs as little as in training."""


@dataclass(frozen=True)
class Operations:
    """Of a pass."""

    forward: float
    both: float
    """Forward and backward."""

    def plus(self, other: Operations, times: float) -> Operations:
        """This and a multiple of another."""
        return Operations(self.forward + times * other.forward, self.both + times * other.both)


@dataclass(frozen=True)
class PassFlops:
    """Operations of a backbone's pass, by what they are proportional to."""

    token: Operations
    """Blocks, for one token."""
    mask: Operations
    """Mask embedding, for one masked position."""
    row: Operations
    """Head, for one row."""


@functools.cache
def pass_flops(config: ModelConfig, vocab_size: int, length: int) -> PassFlops:
    """Count a pass over sequences of `length` tokens; of blocks that are all alike two are counted."""
    tokens = EXAMPLES * length
    none, every = (masked_rows(torch.full((EXAMPLES, length), masked), torch.arange(EXAMPLES)) for masked in (0, 1))

    def counted(model: Backbone, rows: MaskedRows) -> Operations:
        return _count(lambda: model.hidden(torch.zeros(EXAMPLES, length, dtype=torch.int64), rows))

    with FakeTensorMode(allow_non_fake_inputs=True):
        one, two = (fake_backbone(config, vocab_size, blocks) for blocks in (1, 2))
        shallow, deep = (counted(model, none) for model, _ in (one, two))
        blocks = deep.plus(deep.plus(shallow, -1), two[1])
        mask = counted(one[0], every).plus(shallow, -1)
        h_RD = two[0].hidden(torch.zeros(EXAMPLES, length, dtype=torch.int64), none).flatten(0, 1).detach()
        head = _count(lambda: two[0].head(h_RD.requires_grad_()))
    nothing = Operations(0, 0)
    return PassFlops(*(nothing.plus(part, 1 / tokens) for part in (blocks, mask, head)))


def _count(run: Callable[[], Tensor]) -> Operations:
    # Plain products of attention: torch's counter does not know the fused kernel of a CPU, and counts what those of a
    # GPU compute a second time in backward.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = run()
        forward = counter.get_total_flops()
        result.sum().backward()
        return Operations(forward, counter.get_total_flops())


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
    tokens = config.train.global_batch * config.data.length
    one = pass_flops(config.model, vocab_size, config.data.length)
    backbone = one.token.plus(one.mask, MASKED)
    costs = objective_of(config.objective).costs(config)
    recompute = one.token.forward if config.engine.recompute else 0.0
    if micro_batch * config.data.length * MASKED > config.engine.loss_chunk_rows:
        recompute += MASKED * costs.heads * one.row.forward
    teacher = costs.teacher_passes * backbone.forward + MASKED * (costs.heads - 1) * one.row.forward
    return StepFlops(tokens * backbone.both, tokens * MASKED * one.row.both, tokens * recompute, tokens * teacher)


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
    one = pass_flops(model, vocab_size, length)
    # At an evaluation half of what the rollout fills in is still masked, on average.
    passes = evaluations * (length * one.token.forward + masked / 2 * one.mask.forward)
    return PairCost(masked, evaluations, passes + masked * one.row.forward)
