"""Operations along the vocabulary axis, behind one object that tensor parallelism replaces: embedding, loss, draws.

Shape suffixes: B batch, L length, D hidden width, R rows, V vocabulary (here: what this process holds of it).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e6
"""Logit of the mask token: a probability of exactly zero in every precision, yet finite (MDLM's SUBS)."""


class Vocabulary:
    """The whole vocabulary in one process.

    Args:
        size: V, the mask included.
        mask_id: the mask's column, which no distribution ever gives weight to.
    """

    def __init__(self, size: int, mask_id: int) -> None:
        self.size, self.mask_id = size, mask_id

    def embed(self, x_BL: Tensor, table_VD: Tensor) -> Tensor:
        """Rows of an embedding table for int64 tokens, [B, L, D]."""
        return F.embedding(x_BL, table_VD)

    def rule_out(self, logits_RV: Tensor) -> Tensor:
        """Set the columns that are no tokens to `NEVER`, in place."""
        logits_RV[:, self.mask_id] = NEVER
        return logits_RV

    def token_columns(self, logits_RV: Tensor) -> Tensor:
        """1 for columns that are tokens, 0 for others, float32 [V]."""
        keep_V = torch.ones(logits_RV.shape[-1], device=logits_RV.device)
        keep_V[self.mask_id] = 0
        return keep_V

    def nll(self, logits_RV: Tensor, target_R: Tensor) -> Tensor:
        """-log p(target), float32 [R]."""
        return F.cross_entropy(logits_RV.float(), target_R, reduction="none")

    def log_softmax(self, logits_RV: Tensor) -> Tensor:
        """Log-probabilities, float32 [R, V]."""
        return logits_RV.float().log_softmax(dim=-1)

    def sum(self, part: Tensor) -> Tensor:
        """A sum over all columns, from one over the columns of this process."""
        return part

    def invert_cdf(self, logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
        """The token at which the distribution function of softmax(logits), in float64, exceeds a uniform, int64 [R].

        Tokens of probability zero are never drawn: the function does not rise there. A row that is no distribution
        over tokens gives the mask, which no other row does: one with NaN or +inf, or with all weight on the mask.
        """
        cdf_RV = logits_RV.double().softmax(dim=-1).cumsum(dim=-1)
        total_R = cdf_RV[:, -1]
        return torch.where(total_R.isfinite(), first_above(cdf_RV, uniform_R * total_R), self.mask_id)


def first_above(cdf_RV: Tensor, aim_R: Tensor) -> Tensor:
    """The first column of each row of a distribution function that is above an aim, int64 [R].

    An aim that rounding has put at the total or beyond it, or below zero, is moved to the nearest one within.
    """
    below_total_R = cdf_RV[:, -1].nextafter(torch.zeros_like(aim_R))
    return torch.searchsorted(cdf_RV, aim_R.clamp(min=0).minimum(below_total_R)[:, None], right=True).squeeze(1)
