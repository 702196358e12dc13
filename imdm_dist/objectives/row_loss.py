"""Sums of a loss over masked rows, in chunks: logits [rows of a chunk, V] are all that ever exists.

Shape suffixes: R rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from imdm_dist.model import Backbone, Vocabulary

Divergence = Literal["reverse_kl", "forward_kl", "total_variation", "mse"]


def sum_over_rows(
    loss_of_rows: Callable[..., Tensor], rows: tuple[Tensor, ...], positions: int, chunk_rows: int
) -> Tensor:
    """Sum `loss_of_rows(*rows)`, a tensor of one shape for any rows, over chunks of at most `chunk_rows` rows.

    With more than one chunk each is recomputed in backward rather than kept (torch.utils.checkpoint).

    Args:
        positions: the most rows there could be. The number of chunks follows from it and not from how many there are:
            ranks that gather each other's parameters must all call the head equally often.
    """
    chunks = -(-positions // chunk_rows)
    if chunks == 1:
        return loss_of_rows(*rows)
    parts = zip(*(part.tensor_split(chunks) for part in rows), strict=True)
    return torch.stack([checkpoint(loss_of_rows, *part, use_reentrant=False) for part in parts]).sum(dim=0)


def divergence_loss(
    student: Backbone, teacher: Backbone, student_RD: Tensor, teacher_RD: Tensor, kind: Divergence
) -> Tensor:
    """`divergence_sum` of what two heads make of hidden states: where a kernel that fuses it with them goes.

    Args:
        student_RD, teacher_RD: hidden states of the same rows; no gradient reaches the teacher's.
    """
    with torch.no_grad():
        teacher_RV = teacher.head(teacher_RD)
    return divergence_sum(student.vocabulary, student.head(student_RD), teacher_RV, kind)


def divergence_sum(vocabulary: Vocabulary, student_RV: Tensor, teacher_RV: Tensor, kind: Divergence) -> Tensor:
    """Sum over rows of a divergence between softmax(student) and softmax(teacher), in float32.

    reverse_kl is KL(student || teacher), SDTT's default; mse is the mean square difference of
    log-probabilities over the vocabulary without the mask (arXiv 2410.21035).
    """
    student_RV = vocabulary.log_softmax(student_RV)
    teacher_RV = vocabulary.log_softmax(teacher_RV)
    difference_RV = student_RV - teacher_RV
    if kind == "reverse_kl":
        part = (student_RV.exp() * difference_RV).sum()
    elif kind == "forward_kl":
        part = 0 - (teacher_RV.exp() * difference_RV).sum()
    elif kind == "total_variation":
        part = (student_RV.exp() - teacher_RV.exp()).abs().sum() / 2
    else:
        part = (difference_RV.square() @ vocabulary.token_columns(student_RV)).sum() / (vocabulary.size - 1)
    return vocabulary.sum(part)
