"""Sums of a loss over masked rows, in chunks: logits [rows of a chunk, V] are all that ever exists.

Shape suffixes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Divergence = Literal["reverse_kl", "forward_kl", "total_variation", "mse"]


def sum_over_rows(loss_of_rows: Callable[..., Tensor], rows: tuple[Tensor, ...], chunk_rows: int) -> Tensor:
    """Sum `loss_of_rows(*rows)`, a scalar for some rows, over chunks of rows.

    With more than one chunk each is recomputed in backward rather than kept (torch.utils.checkpoint).
    """
    if len(rows[0]) <= chunk_rows:
        return loss_of_rows(*rows)
    chunks = zip(*(part.split(chunk_rows) for part in rows), strict=True)
    return torch.stack([checkpoint(loss_of_rows, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def weighted_nll(logits_RV: Tensor, target_R: Tensor, weight_R: Tensor) -> Tensor:
    """Sum of -weight * log p(target), in float32."""
    return (F.cross_entropy(logits_RV.float(), target_R, reduction="none") * weight_R).sum()


def divergence_sum(student_RV: Tensor, teacher_RV: Tensor, kind: Divergence, mask_id: int) -> Tensor:
    """Sum over rows of a divergence between softmax(student) and softmax(teacher), in float32.

    reverse_kl is KL(student || teacher), SDTT's default; mse is the mean square difference of
    log-probabilities over the vocabulary without the mask (arXiv 2410.21035).
    """
    student_RV = student_RV.float().log_softmax(dim=-1)
    teacher_RV = teacher_RV.float().log_softmax(dim=-1)
    difference_RV = student_RV - teacher_RV
    if kind == "reverse_kl":
        return (student_RV.exp() * difference_RV).sum()
    if kind == "forward_kl":
        return -(teacher_RV.exp() * difference_RV).sum()
    if kind == "total_variation":
        return (student_RV.exp() - teacher_RV.exp()).abs().sum() / 2
    keep_V = torch.ones(student_RV.shape[-1], device=student_RV.device)
    keep_V[mask_id] = 0
    return (difference_RV.square() @ keep_V).sum() / (len(keep_V) - 1)
