"""Ancestral sampling that reveals first and then predicts.

The law is that of the N-step chain of Eq. 13; the work is not. All reveal steps are drawn at the start
(`reveal.py`), the network runs at the steps that reveal something, and head, softmax and float64 draw
run on revealed rows alone. Sequences of a batch move in lock-step by evaluation, each at its own time,
which costs nothing as the backbone takes no time.

Mask noise of positions that stay masked is advanced from one evaluation to the next (`redraw.py`), so it
needs no work at steps without an evaluation either.

Shape suffixes: B batch, L length, A sequences not finished yet, R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from imdm_dist.config.setting import NoisePolicy
from imdm_dist.device import send
from imdm_dist.diffusion.draw_source import CounterSource, DrawSource, draw_tokens
from imdm_dist.diffusion.redraw import redraw_noise
from imdm_dist.diffusion.reveal import RevealPlan, grid_time, plan_reveals, reveal_steps
from imdm_dist.model.mask_embedding import MaskedRows, masked_rows
from imdm_dist.model.vocabulary import Vocabulary

SAMPLER = "reveal-first ancestral; the last step reveals all"
"""What a result says of how its samples were drawn."""


class Denoiser(Protocol):
    """What the sampler needs of a model."""

    name: str
    mask_id: int
    vocabulary: Vocabulary

    @property
    def device(self) -> torch.device: ...

    def hidden(self, x_BL: Tensor, masked: MaskedRows | None) -> Tensor: ...

    def head(self, h_RD: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Samples:
    """What a rollout gave."""

    tokens_BL: Tensor
    """int64, on the host; no mask is left."""
    evaluations: int
    """Network passes of the batch: at most min(N, L)."""


@torch.inference_mode()
def sample(
    model: Denoiser,
    start_BL: Tensor,
    seed_B: Tensor,
    steps: int,
    noise_policy: NoisePolicy = "posterior",
    start_time_B: Tensor | None = None,
    source: DrawSource | None = None,
) -> Samples:
    """Fill the masked positions of `start_BL` in N steps; a deterministic function of its arguments.

    Args:
        model: in eval mode; its `hidden` and `head` are called under the caller's autocast.
        start_BL: int64 on the host; `model.mask_id` where tokens are to be generated, anything else is kept.
        seed_B: int64 on the host; every draw of a sequence is keyed by its seed.
        steps: N; the last step reveals all that is left, by sampling, with no extra pass.
        noise_policy: posterior (Eq. 13), fixed or fresh at every grid step.
        start_time_B: float64 time the grid starts at; 1 if not given.
        source: where reveal steps, kept noise and tokens come from.

    Raises:
        ValueError: `steps` is below 1, or the model gives rows that are no distribution.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: sample in 1 step or more")
    source = CounterSource() if source is None else source
    length, device = start_BL.shape[1], model.device
    time_B = torch.ones(len(start_BL), dtype=torch.float64) if start_time_B is None else start_time_B
    step_BL = reveal_steps(start_BL == model.mask_id, source.reveal(seed_B, length), time_B, steps)
    plan = plan_reveals(step_BL)
    redraw_BL = torch.zeros_like(start_BL)
    reached_B = time_B
    x_BL = start_BL.to(device, copy=True)
    evaluations = int(plan.count_B.max())
    for evaluation in range(evaluations):
        active_A = (plan.count_B > evaluation).nonzero().squeeze(1)
        taken_B = plan.step_BJ[:, evaluation] - 1
        now_B = torch.where(plan.count_B > evaluation, grid_time(time_B, taken_B, steps), reached_B)
        redraw_BL = redraw_noise(
            redraw_BL,
            taken_B[:, None],  # redraws are numbered by the grid step they happen at, so none recurs
            reached_B[:, None],
            now_B[:, None],
            noise_policy,
            partial(source.keep, seed_B, length, taken_B),
        )
        reached_B = now_B
        _reveal(model, source, plan, evaluation, active_A, x_BL, seed_B, redraw_BL)
    tokens_BL = x_BL.cpu()  # here the device is waited for
    lacking_BL = tokens_BL == model.mask_id
    if bool(lacking_BL.any()):
        raise ValueError(
            f"{model.name} gives no distribution over tokens at sampling step {int(step_BL[lacking_BL].min())} of "
            f"{steps}: its logits are not finite or beyond all bounds; it has diverged, take an earlier checkpoint or "
            "train it again"
        )
    return Samples(tokens_BL, evaluations)


def _reveal(
    model: Denoiser,
    source: DrawSource,
    plan: RevealPlan,
    evaluation: int,
    active_A: Tensor,
    x_BL: Tensor,
    seed_B: Tensor,
    redraw_BL: Tensor,
) -> None:
    """Evaluate the active sequences and write the tokens of the positions that this evaluation reveals."""
    device, length = x_BL.device, x_BL.shape[1]
    due_AL = plan.evaluation_BL[active_A]
    # All indices are made on the host, from draws made on the host: the device is never waited for.
    masked = masked_rows(due_AL >= evaluation, seed_B[active_A], redraw_BL[active_A]).to(device)
    row_R = (due_AL == evaluation).flatten().nonzero().squeeze(1)
    sequence_R, position_R = active_A[row_R // length], row_R % length
    h_RD = model.hidden(x_BL[send(active_A, device)], masked).flatten(0, 1)[send(row_R, device)]
    redraw_R = redraw_BL[sequence_R, position_R]
    index = (send(one, device) for one in (seed_B[sequence_R], position_R, redraw_R))
    token_R = draw_tokens(source, model, h_RD, *index)
    x_BL.view(-1)[send(sequence_R * length + position_R, device)] = token_R
