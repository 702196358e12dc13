"""Self-distillation through time (SDTT, arXiv 2410.21035): two teacher steps become one student step.

The teacher rolls two ancestral steps from x_t, of size dt, on the student's own x_t and mask noise.
A position's target is the teacher's distribution at the step that reveals it; positions that neither
step reveals take the second step's. Targets are never stored as distributions: the teacher's *hidden
state* that decides a row is, and both heads run inside one chunk of rows.

Times are t and t - dt (as the method is stated; the released code computes others).

Shape suffixes: B batch, L length, M masked rows, R rows, D hidden width, A sequences that changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from imdm_dist import draws
from imdm_dist.config.names import NoisePolicy
from imdm_dist.device import send
from imdm_dist.diffusion.redraw import redraw_noise
from imdm_dist.diffusion.schedule import alpha
from imdm_dist.diffusion.source import CounterSource, draw_tokens
from imdm_dist.draws import Purpose
from imdm_dist.model import Backbone, MaskedRows
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.row_loss import Divergence, divergence_sum, sum_over_rows


@dataclass(frozen=True)
class TeacherSteps:
    """What the teacher's two steps reveal, decided on the host before anything is computed."""

    first_M: Tensor
    """Masked rows that the first step reveals, bool [M]."""
    second: MaskedRows | None
    """Masked rows of the changed sequences at the second step; None if the first step's answer still stands."""
    changed_A: Tensor
    """Sequences whose second step sees another input than the first."""
    slot_M: Tensor
    """Where a row lies in the flattened second pass; meaningful where `take_second_M`."""
    take_second_M: Tensor
    """Rows whose target is the second step's, and for which that differs from the first's, bool [M]."""
    rollout_seed_M: Tensor
    """Seed of the teacher's token draws."""

    def to(self, device: torch.device) -> TeacherSteps:
        """Copy from the host to `device` without waiting."""
        moved: dict[str, Any] = {
            name: send(part, device) if isinstance(part, Tensor) else part and part.to(device)
            for name, part in vars(self).items()
        }
        return TeacherSteps(**moved)


def plan_teacher(batch: MaskedBatch, dt: float, noise_policy: NoisePolicy) -> TeacherSteps:
    """Decide on the host what the teacher reveals at its first step, and which sequences need a second pass.

    Args:
        batch: on the host.
        dt: the teacher's step; times below 0 are 0, where everything is revealed.
        noise_policy: mask noise at the second step; with `fixed` an unchanged sequence needs no second pass.
    """
    length = batch.x_BL.shape[1]
    rows = batch.masked
    seed_M = draws.derive_seed(batch.draw_seed_B, Purpose.TEACHER, 0)[rows.flat_M // length]
    time_M = batch.row_time_M()
    next_M = (time_M - dt).clamp(min=0)
    kept_M = (1 - alpha(next_M)) / (1 - alpha(time_M))
    first_M = draws.uniform(seed_M, Purpose.REVEAL, rows.position_M) >= kept_M
    keep = partial(draws.uniform, seed_M, Purpose.KEEP, rows.position_M)
    redraw_M = redraw_noise(rows.redraw_M, rows.redraw_M + 1, time_M, next_M, noise_policy, keep)
    sequence_M = rows.flat_M // length
    changes_M = first_M if noise_policy == "fixed" else torch.ones_like(first_M)
    changed_B = torch.zeros(len(batch.x_BL), dtype=torch.bool).index_put((sequence_M[changes_M],), torch.tensor(True))
    place_B = changed_B.cumsum(0) - 1
    slot_M = place_B[sequence_M].clamp(min=0) * length + rows.position_M
    second_M = changed_B[sequence_M] & ~first_M
    second = MaskedRows(slot_M[second_M], rows.seed_M[second_M], rows.position_M[second_M], redraw_M[second_M])
    return TeacherSteps(
        first_M=first_M,
        second=second if bool(changed_B.any()) else None,
        changed_A=changed_B.nonzero().squeeze(1),
        slot_M=slot_M,
        take_second_M=second_M,
        rollout_seed_M=seed_M,
    )


@torch.no_grad()
def teacher_hidden(
    teacher: Backbone, batch: MaskedBatch, plan: TeacherSteps, first_R: Tensor, second_R: Tensor
) -> Tensor:
    """The teacher's hidden state that decides each masked row, [M, D].

    Args:
        first_R, second_R: indices of the rows where `plan.first_M` and `plan.take_second_M` hold.
    """
    h_MD = teacher.hidden(batch.x_BL, batch.masked).flatten(0, 1)[batch.masked.flat_M]
    if plan.second is None:
        return h_MD
    rows = (plan.rollout_seed_M, batch.masked.position_M, batch.masked.redraw_M)
    token_R = draw_tokens(CounterSource(), teacher, h_MD[first_R], *(row_M[first_R] for row_M in rows))
    next_BL = batch.x_BL.clone()
    next_BL.view(-1)[batch.masked.flat_M[first_R]] = token_R
    second_RD = teacher.hidden(next_BL[plan.changed_A], plan.second).flatten(0, 1)[plan.slot_M[second_R]]
    return h_MD.index_copy(0, second_R, second_RD.to(h_MD.dtype))


def sdtt(
    student: Backbone,
    teacher: Backbone,
    batch: MaskedBatch,
    dt: float,
    divergence: Divergence,
    noise_policy: NoisePolicy,
    chunk_rows: int,
) -> Tensor:
    """This micro-batch's share of the loss: sum of divergences over masked rows, over `batch.total` of them.

    Args:
        student: the model in training.
        teacher: in eval mode; no gradient reaches it.
        batch: on the host: the teacher's reveals are planned there.

    Returns:
        float32 scalar, nats per masked token when summed over the global batch.
    """
    plan = plan_teacher(batch, dt, noise_policy)
    first_R, second_R = plan.first_M.nonzero().squeeze(1), plan.take_second_M.nonzero().squeeze(1)
    device = student.device
    batch, plan = batch.to(device), plan.to(device)
    target_MD = teacher_hidden(teacher, batch, plan, send(first_R, device), send(second_R, device))
    h_MD = student.hidden(batch.x_BL, batch.masked).flatten(0, 1)[batch.masked.flat_M]

    def loss_of_rows(h_RD: Tensor, target_RD: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_RV = teacher.head(target_RD)
        return divergence_sum(student.vocabulary, student.head(h_RD), teacher_RV, divergence)

    return sum_over_rows(loss_of_rows, (h_MD, target_MD), batch.x_BL.numel(), chunk_rows) / batch.total
