"""The NELBO of masked diffusion (Eq. 5; Eq. 14 on a coupling): 1/t-weighted cross-entropy of masked tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from imdm_dist.config.training import ObjectiveConfig
from imdm_dist.diffusion.schedule import nelbo_weight
from imdm_dist.model import Backbone
from imdm_dist.objectives.batch import MaskedBatch
from imdm_dist.objectives.objective import Objective
from imdm_dist.objectives.row_loss import sum_over_rows


@dataclass(frozen=True, kw_only=True)
class NelboConfig(ObjectiveConfig):
    """The NELBO on data (Eq. 5); it has no settings of its own."""

    kind: str = "nelbo"


class Nelbo(Objective):
    """Eq. 5 on data; no state."""

    Config: ClassVar[type[ObjectiveConfig]] = NelboConfig

    def loss(self, model: Backbone, batch: MaskedBatch) -> Tensor:
        """See `nelbo`."""
        return nelbo(model, batch, self.chunk_rows)


def nelbo(model: Backbone, batch: MaskedBatch, chunk_rows: int) -> Tensor:
    """This micro-batch's share of the loss: sum over masked tokens of -log p / t, over `batch.total` tokens.

    Returns:
        float32 scalar, nats per token when summed over the micro-batches of the global batch.
    """
    h_MD = model.hidden(batch.x_BL, batch.masked).flatten(0, 1)[batch.masked.flat_M]
    weight_M = nelbo_weight(batch.row_time_M()).float()
    rows = h_MD, batch.target_M, weight_M
    return sum_over_rows(model.row_loss, rows, batch.x_BL.numel(), chunk_rows) / batch.total


@torch.no_grad()
def nelbo_by_row(model: Backbone, batch: MaskedBatch, chunk_rows: int, positions: int, text: slice) -> Tensor:
    """Each row's sum over masked tokens of -log p / t: over all of them, and over those at the positions `text`.

    Args:
        positions: of the largest batch that any rank has now (see `sum_over_rows`).

    Returns:
        float64 [2, B], nats.
    """
    flat_M, (rows, length) = batch.masked.flat_M, batch.x_BL.shape
    h_MD = model.hidden(batch.x_BL, batch.masked).flatten(0, 1)[flat_M]
    weight_M = nelbo_weight(batch.row_time_M())
    place_M = flat_M % length
    counts_2M = torch.stack((torch.ones_like(weight_M), ((place_M >= text.start) & (place_M < text.stop)).double()))

    def loss_of_rows(h_RD: Tensor, target_R: Tensor, weight_R2: Tensor, row_R: Tensor) -> Tensor:
        term_2R = weight_R2.T * model.vocabulary.nll(model.head(h_RD), target_R).double()
        return torch.zeros(2, rows, dtype=torch.float64, device=h_RD.device).index_add(1, row_R, term_2R)

    parts = h_MD, batch.target_M, (counts_2M * weight_M).T, flat_M // length
    return sum_over_rows(loss_of_rows, parts, positions, chunk_rows)
